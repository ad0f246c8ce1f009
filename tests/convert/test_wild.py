"""What files in public repositories have that no class promises, each on a file made here."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import to_flax
from convert.api import directory_to_file
from convert.detect.detect import Detected, detect
from convert.detect.errors import Asked
from convert.dialects import DIALECTS
from convert.extras.class_settings import class_settings
from convert.rows.parameters import to_flax as move_to_flax
from convert.rows.whole import to_torch
from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from tests.helpers import config_of, random_params, tensors_of

torch = pytest.importorskip("torch", reason="torch is not installed")

Tensors = dict[str, np.ndarray]
HEADS, WIDTH, LENGTH = 6, 8, 17


def config(**fields: Any) -> ModelConfig:
    """A decoder of the family `separate` with rotary positions and grouped queries."""
    usual = {
        "positions": "rotary", "norm_kind": "rms", "norm_bias": False, "mlp_gated": True, "activation": "silu",
        "num_heads": HEADS, "num_kv_heads": 2, "head_dim": WIDTH, "mlp_dim": 41, "model_dim": HEADS * WIDTH,
    }  # fmt: skip
    return ModelConfig(**{**vars(config_of(DIALECTS["separate"])), **usual, **fields})


def modern(**fields: Any) -> Tensors:
    made = config(**fields)
    return to_torch(DIALECTS["separate"], made, random_params(made, np.dtype("float32")))


def angles(theta: float, width: int = WIDTH) -> Any:
    steps = torch.arange(0, width, 2).float() / width
    return torch.outer(torch.arange(LENGTH).float(), 1.0 / theta**steps)


def found(tensors: Tensors, dialect: str | None = None, /, **given: Any) -> Detected:
    shapes = {name: array.shape for name, array in tensors.items()}
    return detect(shapes, tensors.__getitem__, "w.pt", dialect, given, {})


def without(tensors: Tensors, *words: str) -> Tensors:
    return {name: a for name, a in tensors.items() if not any(word in name for word in words)}


@pytest.mark.parametrize(("name", "dialect"), [("heads", None), ("heads", "auto"), ("gpt", None)])
def test_a_file_without_a_table_asks_for_positions_where_the_context_is_known(
    name: str, dialect: str | None
) -> None:
    tensors = without(tensors_of(name), "position", "pos_embedding")
    with pytest.raises(Asked, match="--set positions=rotary, alibi, none or sinusoidal"):
        found(tensors, dialect, context_length=17)
    report = found(tensors, dialect, context_length=17, positions="none").report
    assert report.given["positions"] == "none"


def test_what_never_shows_is_listed() -> None:
    assumed = found(modern(), num_heads=HEADS, positions="rotary", context_length=9).report.assumed
    assert {"norm_kind", "embedding_scale", "rotary_layout", "rotary_theta"} <= assumed.keys()
    assert assumed["norm_kind"] == "rms"  # as nearly all with a gated MLP and norms without bias


@pytest.mark.parametrize("theta", [1e4, 1e8, 500000.0, 31415.0])
@pytest.mark.parametrize(
    ("names", "tables"),
    [
        ("blocks.{}.attn._cos blocks.{}.attn._sin", lambda a: (a.cos(), a.sin())),
        ("blocks.{}.attn.rope.cos_cached blocks.{}.attn.rope.sin_cached",
         lambda a: (torch.cat([a, a], -1).cos()[None, None], torch.cat([a, a], -1).sin()[None, None])),
        ("rotary_emb.inv_freq", lambda a: (a[1],)),
        ("freqs_cis", lambda a: (torch.polar(torch.ones_like(a), a),)),
        ("freqs_cis", lambda a: (torch.stack([a.cos(), a.sin()], -1),)),
        ("rope.freqs", lambda a: (a,)),
        ("rope.freqs", lambda a: (a[1].bfloat16(),)),
    ],
    ids=["alone", "doubled", "inv_freq", "complex", "pairs", "angles", "bfloat16"],
)  # fmt: skip
def test_rotary_tables_tell_their_base_and_go_back(
    tmp_path: Path, theta: float, names: str, tables: Any
) -> None:
    if theta == 31415.0 and tables(angles(theta))[0].dtype is torch.bfloat16:
        theta = 3e4  # of which so few bits tell no more
    state = {name: torch.from_numpy(array) for name, array in modern().items()}
    for name, table in zip(names.split(), tables(angles(theta)), strict=True):
        state |= {name.format(layer): table.clone() for layer in range(3)}
    torch.save(state, tmp_path / "w.pt")
    loaded = to_flax(tmp_path / "w.pt", **({} if "cos" in names else {"context_length": 17}))
    read = loaded.report.read
    assert (read["positions"], read["rotary_theta"]) == ("rotary", theta)
    assert (read["num_heads"], read["num_kv_heads"], read["head_dim"]) == (HEADS, 2, WIDTH)
    assert ("rotary_layout" in read) == ("cached" in names)
    # Complex numbers are pairs of neighbours as a rule, which stays an assumption.
    assert loaded.config.rotary_layout == ("interleaved" if "cis" in names else "half")
    loaded.save(tmp_path / "dir")
    directory_to_file(tmp_path / "dir", tmp_path / "back.pt", None)
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert list(back) == list(state)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    assert all(back[name].dtype == tensor.dtype for name, tensor in state.items())


def test_the_fraction_of_a_head_that_rotates_is_read_where_heads_are_known() -> None:
    tensors = modern() | {"inv_freq": angles(1e4, 4)[1].numpy()}
    read = found(tensors, num_heads=HEADS, context_length=17).report.read
    assert (read["rotary_fraction"], read["rotary_theta"]) == (0.5, 1e4)


def test_blocks_may_have_tables_of_their_own() -> None:
    tensors = modern()
    for layer, theta in enumerate((1e4, 1e6, 1e4)):
        tensors[f"blocks.{layer}.attn.inv_freq"] = angles(theta)[1].numpy()
    detected = found(tensors, context_length=17)
    assert detected.report.read["rotary_theta"] == [1e4, 1e6, 1e4]
    params = move_to_flax(detected.dialect, detected.report.config, tensors.__getitem__)
    back = to_torch(detected.dialect, detected.report.config, params)
    assert all(back[name].tobytes() == array.tobytes() for name, array in tensors.items())


@pytest.mark.parametrize("form", ["inv_freq", "cos"])
def test_a_table_that_no_base_explains_is_refused(form: str) -> None:
    turns = angles(1e4) * 0.5
    table = turns[1] if form == "inv_freq" else turns.cos()
    with pytest.raises(UserError, match=f"{form} is a table of rotary.*rotary_scaling"):
        found(modern() | {form: table.numpy()}, num_heads=HEADS, context_length=17)
    if form == "inv_freq":
        scaling = {"rope_type": "linear", "factor": 2.0}
        detected = found(
            modern() | {form: table.numpy()}, context_length=17, rotary_scaling=scaling
        )
        assert detected.report.read["rotary_theta"] == 1e4


def test_a_table_contradicts_what_is_given() -> None:
    tensors = modern() | {"inv_freq": angles(1e4)[1].numpy()}
    with pytest.raises(UserError, match="rotary_theta = 500000.0 was given, but the tensors show"):
        found(tensors, num_heads=HEADS, context_length=17, rotary_theta=5e5)


def test_without_a_last_norm_the_others_follow_the_sums() -> None:
    assert found(without(tensors_of("heads"), "ln_f")).report.assumed["norm"] == "post"
    assert found(tensors_of("heads")).report.assumed["norm"] == "pre"


def test_the_last_norm_may_follow_the_blocks_in_their_list(tmp_path: Path) -> None:
    tensors = {
        name.replace("ln_f", "blocks.3"): torch.from_numpy(array)
        for name, array in tensors_of("heads").items()
    }
    torch.save(tensors, tmp_path / "w.pt")
    loaded = to_flax(tmp_path / "w.pt")
    assert loaded.report.config.num_blocks == 3
    loaded.save(tmp_path / "dir")
    directory_to_file(tmp_path / "dir", tmp_path / "back.pt", None)
    assert list(torch.load(tmp_path / "back.pt")) == list(tensors)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("token_embedding.weight", "token_emb.embedding.weight"),
        ("position_embedding.weight", "pos_emb.embedding.weight"),
        ("position_embedding.weight", "positional_encoding.weights"),
        (".ffn.", ".multi_layer_perceptron."),
        (".mha.proj.", ".mha.compress."),
        ("lm_head.bias", "lm_head_bias"),
        ("blocks.", "block_"),
        (".heads.", ".head_"),
    ],
)
def test_words_of_public_files_need_no_structure(old: str, new: str) -> None:
    tensors = {name.replace(old, new): array for name, array in tensors_of("heads").items()}
    assert any(new in name for name in tensors)
    assert found(tensors).dialect.name == "heads"


def test_a_class_that_has_every_name_does_not_hide_one_without_output_projection() -> None:
    report = found(without(tensors_of("ng"), "sa.proj")).report
    assert report.config.attention_out is False


def test_a_file_goes_back_in_its_own_order() -> None:
    tensors = dict(sorted(tensors_of("heads").items(), reverse=True))
    detected = found(tensors)
    params = move_to_flax(detected.dialect, detected.report.config, tensors.__getitem__)
    assert list(to_torch(detected.dialect, detected.report.config, params)) == list(tensors)


def test_two_lengths_in_a_config_are_settled_by_the_tensors() -> None:
    tensors = tensors_of("gpt")
    shapes = {name: array.shape for name, array in tensors.items()}
    both = {"the file": {"config": {"max_seq_len": 64, "block_size": 17}}}
    report = detect(shapes, tensors.__getitem__, "w.pt", None, {}, both).report
    assert report.read["context_length"] == 17
    neither = {"the file": {"config": {"max_seq_len": 64, "block_size": 32}}}
    with pytest.raises(UserError, match=r"max_seq_len = 64, but.*block_size = 32"):
        detect(shapes, tensors.__getitem__, "w.pt", None, {}, neither)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("blocks.0.ffn.experts.0.w1.weight", "a decoder with experts"),
        ("blocks.0.moe.router.weight", "a decoder with experts"),
        ("blocks.0.mixer.A_log", "state spaces or linear attention"),
        ("value_embeds.1.weight", "value embeddings"),
        ("blocks.0.attn.q_proj.lora_A.weight", "a LoRA adapter"),
        ("blocks.0.attn.q_proj.qweight", "quantised weights"),
        ("embeddings.token_type_embeddings.weight", "an encoder of the BERT family"),
        ("blocks.0.attn.kv_a_proj.weight", "latent attention"),
        ("mlp_bank", "modded-nanogpt"),
    ],
)
def test_other_kinds_are_refused_by_what_they_are(name: str, kind: str) -> None:
    with pytest.raises(UserError, match=f"{kind}.*have no counterpart here") as caught:
        found(modern() | {name: np.zeros((3, 3), np.float32)}, num_heads=HEADS)
    assert "one text" not in str(caught.value)


def test_llama2c_gets_the_settings_that_its_trainer_resumes_from() -> None:
    made = config(model_dim=48, mlp_dim=136)
    settings = class_settings(made, DIALECTS["llama2c"])
    assert settings == {
        "dim": 48, "n_layers": 3, "n_heads": HEADS, "n_kv_heads": 2, "vocab_size": 103, "max_seq_len": LENGTH,
        "dropout": made.dropout, "multiple_of": 136,
    }  # fmt: skip
    hidden = 2 * 4 * settings["dim"] // 3  # as the class computes its width
    assert settings["multiple_of"] * -(-hidden // settings["multiple_of"]) == made.mlp_dim
    with pytest.raises(UserError, match="cannot have mlp_dim = 41: it is at least 128"):
        class_settings(config(), DIALECTS["llama2c"])

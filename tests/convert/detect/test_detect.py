import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import dialects
from convert.detect import candidates, registry
from convert.detect import detect as detecting
from convert.detect.detect import Detected, detect
from convert.dialects import DIALECTS
from convert.rows.fields import USUAL, usual_of
from convert.rows.kinds import Row
from convert.rows.parameters import to_flax
from convert.rows.whole import to_torch
from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.model.positions import sinusoids
from jaxgpt.pytree import flatten
from tests.helpers import INVISIBLE, PRIME_CONFIG, config_of, random_params, tensors_of

UNSAID = {
    "norm", "final_norm", "activation", "attention_scale", "attention_scale_by_layer", "norm_eps", "dropout",
    *INVISIBLE,
}  # fmt: skip


def found(
    tensors: dict[str, np.ndarray], dialect: str | None = None, given: Any = None, **configs: Any
) -> Detected:
    shapes = {name: array.shape for name, array in tensors.items()}
    return detect(shapes, tensors.__getitem__, "weights.pt", dialect, given, configs)


def test_what_the_tensors_show_is_read_and_the_rest_assumed() -> None:
    report = found(tensors_of("gpt")).report
    assert report.config == PRIME_CONFIG
    assert not report.given
    assert set(report.assumed) == UNSAID
    left_out = vars(PRIME_CONFIG).keys() - {**report.read, **report.assumed}.keys()
    left_out -= {"qkv_order", "gate_order"}  # which the names tell
    assert all(field.startswith(("rotary_", "sinusoidal_")) for field in left_out)


def test_what_is_given_is_no_longer_assumed() -> None:
    report = found(tensors_of("gpt"), "gpt", {"activation": "gelu", "num_heads": 5}).report
    assert report.given == {"activation": "gelu"}
    assert "activation" not in report.assumed
    assert report.config == ModelConfig(**{**vars(PRIME_CONFIG), "activation": "gelu"})


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_is_detected_or_taken_for_its_twin(name: str) -> None:
    """Where heads cannot be counted somebody must say how many they are."""
    config = config_of(DIALECTS[name])
    sizes = {"num_heads": config.num_heads, "head_dim": config.head_dim, "context_length": 17}
    detected = found(tensors_of(name), None, sizes)
    taken_for = DIALECTS[detected.dialect.name]
    assert not taken_for.twin or taken_for.told_by
    twins = {name, DIALECTS[name].twin, DIALECTS[name].yields_to, detected.dialect.twin}
    assert detected.dialect.name in twins | {"mingpt"}
    assert found(tensors_of(name), name, sizes).dialect.name == name


@pytest.mark.parametrize("name", ["nanogpt", "gpt2", "raschka", "torch-encoder", "mingpt-2020"])
def test_a_head_count_that_nothing_shows_is_asked_for(name: str) -> None:
    with pytest.raises(
        UserError,
        match=r"all heads together are 35 wide.*counts that fit are 1, 5, 7, 35: set it with",
    ):
        found(tensors_of(name))
    with pytest.raises(UserError, match=r"num_heads = 4 does not divide that.*fit are 1, 5, 7, 35"):
        found(tensors_of(name), None, {"num_heads": 4})
    report = found(tensors_of(name), None, {"num_heads": 5}).report
    assert report.given == {"num_heads": 5}
    assert report.config.head_dim == 7


def test_a_head_count_gives_each_key_a_whole_group() -> None:
    dialect = DIALECTS["llama"]
    sizes = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "qk_norm": "none", "qkv_bias": False}
    config = ModelConfig(**{**vars(config_of(dialect)), **sizes})
    tensors = to_torch(dialect, config, random_params(config, np.dtype("float32"), dialect))
    given = {"positions": "rotary", "context_length": 9}
    with pytest.raises(
        UserError, match=r"num_heads = 1 does not divide that.*fit are 2, 4, 8, 16:"
    ):
        found(tensors, "llama", {**given, "num_heads": 1})
    report = found(tensors, "llama", {**given, "num_heads": 4}).report
    assert report.config.num_kv_heads == 2


def test_only_two_norms_in_a_block_are_taken_for_norms_after_the_sums() -> None:
    rows = (each.flax for each in DIALECTS["nanogpt"].rows if isinstance(each, Row))
    views = [flax for flax in rows if not flax.name.startswith("final")]
    assert usual_of(USUAL, views, {})["norm"] == "post"
    one = [flax for flax in views if not flax.name.startswith("blocks/norm2")]
    assert usual_of(USUAL, one, {})["norm"] == USUAL["norm"] == "pre"


GROUPED = {
    "vocab_size": 61, "context_length": 24, "model_dim": 30, "num_blocks": 2, "num_heads": 6,
    "num_kv_heads": 2, "head_dim": 8, "positions": "rotary", "positions_stored": False,
    "qk_norm": "none",
}  # fmt: skip


@pytest.mark.parametrize("name", ["separate", "fused", "llama", "phi3", "litgpt", "starcoder2"])
def test_the_question_for_heads_lists_those_that_share_keys_evenly(name: str) -> None:
    """48 wide queries and 16 wide keys: heads are 2, 4, 8 or 16 wide, as they rotate in pairs."""
    config = ModelConfig(**{**vars(config_of(DIALECTS[name])), **GROUPED})
    weights = to_torch(DIALECTS[name], config, random_params(config, np.dtype("float32")))
    given = {"positions": "rotary", "rotary_fraction": 1.0, "context_length": 24}
    with pytest.raises(UserError) as asked:
        found(weights, name, given)
    for part in (
        "heads together are 48 wide",
        "that fit are 3, 6, 12, 24: ",
        "values are 16 wide, so",
    ):
        assert part in str(asked.value)
    assert "num_kv_heads is then N / 3" in str(asked.value)
    for one in ({"num_heads": 6}, {"num_kv_heads": 2}, {"num_heads": 6, "num_kv_heads": 2}):
        detected = found(weights, name, {**given, **one}).report.config
        assert (detected.num_heads, detected.num_kv_heads, detected.head_dim) == (6, 2, 8)


@pytest.mark.parametrize("name", ["separate", "fused"])
@pytest.mark.parametrize("heads", [6, 1])
@pytest.mark.parametrize("kind", ["full_width", "before_rotary"])
def test_norms_of_queries_are_over_all_heads_or_over_each(name: str, heads: int, kind: str) -> None:
    """A norm as wide as all queries is not that of a single head, unless there is only one."""
    fields = {**GROUPED, "num_heads": heads, "num_kv_heads": min(heads, 2), "qk_norm": kind}
    config = ModelConfig(**{**vars(config_of(DIALECTS[name])), **fields})
    params = random_params(config, np.dtype("float32"))
    weights = to_torch(DIALECTS[name], config, params)
    given = {"positions": "rotary", "context_length": 24}
    if heads == 1 or kind == "full_width":
        with pytest.raises(UserError, match=f"queries of all heads together are {8 * heads} wide"):
            found(weights, None, given)
        given["num_heads"] = heads
    detected = found(weights, None, given)
    expected = "full_width" if heads == 1 else kind  # which are the same for one head
    assert detected.report.config.qk_norm == expected
    assert detected.report.config.num_heads == heads
    back = flatten(to_flax(detected.dialect, detected.report.config, weights.__getitem__))
    assert all(back[path].tobytes() == value.tobytes() for path, value in flatten(params).items())


def test_norms_over_all_heads_have_no_place_in_files_with_norms_of_each() -> None:
    for kind, name, says in (
        ("full_width", "qwen3", "qk_norm is full_width, .* over each head"),
        ("before_rotary", "olmo2", "qk_norm is before_rotary, .* over all heads together"),
    ):
        config = ModelConfig(**{**vars(config_of(DIALECTS[name])), "qk_norm": kind})
        with pytest.raises(UserError, match=says):
            to_torch(DIALECTS[name], config, random_params(config, np.dtype("float32")))


@pytest.mark.parametrize("tied", [False, True])
def test_a_tied_head_is_told_by_its_numbers(tied: bool) -> None:
    assert found(tensors_of("nanogpt", tied), None, {"num_heads": 5}).report.read["tied"] is tied


def test_twins_are_told_apart_by_what_they_keep() -> None:
    plain, masked = tensors_of("nanogpt", tied=True), tensors_of("mingpt")
    given = {"num_heads": 5}
    assert found(plain, None, given).dialect.name == "nanogpt"
    assert found(masked, None, given).dialect.name == "mingpt"
    build = found(
        plain, None, given, **{"the file": {"step": 5, "val_loss": 3.0, "config": {"n_head": 5}}}
    )
    assert build.dialect.name == "build-nanogpt"
    assert build.report.assumed["activation"] == "gelu_tanh"


def test_a_config_is_read_before_anything_is_assumed() -> None:
    config = {"model_args": {"n_head": 5, "dropout": 0.3, "n_layer": 3, "bias": True}}
    report = found(tensors_of("nanogpt"), None, None, **{"the file": config}).report
    assert report.read["num_heads"] == 5
    assert report.read["dropout"] == 0.3
    assert not report.given


@pytest.mark.parametrize(
    ("given", "config", "message"),
    [
        ({"num_heads": 7}, {}, "weights.pt: num_heads = 7 was given, but the tensors show 5"),
        ({"tied": True, "model_dim": 36}, {}, "tied = True was given.*model_dim = 36 was given, but the t"),
        ({"num_head": 7}, {}, "Did you mean num_heads"),
        ({"norm": "mid"}, {}, "norm takes 'pre'"),
        ({}, {"n_layer": 4}, "config.json: n_layer = 4 says num_blocks = 4, but the tensors show 3.*--ignore-config"),
        ({"activation": "relu"}, {"activation": "gelu"}, "activation = relu was given, but config.json: activa"),
        ({}, {"activation": "mish"}, "config.json says activation = 'mish'; supported values are relu, gelu"),
        ({}, {"n_embd": 35, "d_model": 36}, "n_embd = 35, but config.json: d_model = 36"),
        ({}, {"add_cross_attention": True}, "cross_attention = True, but the tensors show False"),
    ],
)  # fmt: skip
def test_contradictions_and_typos_are_errors(given: dict, config: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        found(tensors_of("gpt"), None, given, **{"config.json": config})


def test_a_stranger_is_shown_the_nearest_dialect_and_all_that_is_wrong() -> None:
    zebra = {**tensors_of("gpt"), "zebra": np.zeros(1)}
    with pytest.raises(
        UserError,
        match="fit no known dialect. The nearest is gpt .* with 1 problem: zebra is unknown",
    ):
        found(zebra)
    foreign = {f"u{name}": array for name, array in tensors_of("gpt").items()}
    with pytest.raises(
        UserError,
        match=r"; and \d+ more\. By its structure it could be a GPT\. .* --torch .* --dialect auto shows",
    ):
        found(foreign)
    with pytest.raises(UserError, match="There is no dialect gtp. Did you mean gpt"):
        found(zebra, "gtp")
    with pytest.raises(UserError, match="tensors do not fit gpt .* zebra is unknown"):
        found(zebra, "gpt")
    with pytest.raises(UserError, match="lstm.weight_ih_l0 belongs to a recurrent network"):
        found({"lstm.weight_ih_l0": np.zeros((4, 4))})


@pytest.mark.parametrize(
    "lost",
    [
        "vocab_projection.bias",
        "transformer_blocks.1.mhsa.compute",
        "layer_norm_three",
    ],
)
def test_a_part_of_a_known_model_is_not_taken_for_another_model(lost: str) -> None:
    part = {name: array for name, array in tensors_of("gpt").items() if lost not in name}
    with pytest.raises(UserError, match=f"The nearest is gpt .*{lost}.* is missing"):
        found(part)


def test_a_mask_that_is_not_causal_is_refused() -> None:
    tensors = tensors_of("ng")
    tensors["blocks.1.sa.heads.2.tril"] = np.ones_like(tensors["blocks.1.sa.heads.2.tril"])
    with pytest.raises(UserError, match=r"blocks\.1\.sa\.heads\.2\.tril is no causal mask"):
        found(tensors)


def test_names_that_two_dialects_read_differently_need_a_person(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dataclasses import replace

    from convert.rows.kinds import Row

    others = {"blocks/norm1": "blocks/norm2", "blocks/norm2": "blocks/norm1"}

    def swapped(row: Any) -> Any:
        if not isinstance(row, Row):
            return row
        module, _, leaf = row.flax.name.rpartition("/")
        flax = replace(row.flax, name=f"{others.get(module, module)}/{leaf}")
        return replace(row, flax=flax)

    rows = tuple(map(swapped, DIALECTS["gpt"].rows))
    monkeypatch.setitem(detecting.DIALECTS, "gtp", replace(DIALECTS["gpt"], name="gtp", rows=rows))
    with pytest.raises(
        UserError, match="its tensors fit the dialects gpt and gtp; choose one with --dialect"
    ):
        found(tensors_of("gpt"))
    assert found(tensors_of("gpt"), "gtp").dialect.name == "gtp"


def with_heads(num_heads: int, head_dim: int, name: str = "separate") -> dict[str, np.ndarray]:
    config = ModelConfig(
        **{
            **vars(config_of(DIALECTS[name])),
            **{"num_heads": num_heads, "num_kv_heads": num_heads, "head_dim": head_dim},
        }
    )
    return to_torch(DIALECTS[name], config, random_params(config, np.dtype("float32")))


@pytest.mark.parametrize("given", [{"num_heads": 4}, {"head_dim": 9}])
def test_heads_may_be_wider_than_the_model_divided(given: dict) -> None:
    config = found(with_heads(4, 9), None, given).report.config
    assert (config.num_heads, config.head_dim) == (4, 9)


def test_a_head_width_in_a_config_is_compared_and_not_believed() -> None:
    with pytest.raises(UserError, match="head_size = 8 says head_dim = 8, but the tensors show 9"):
        found(with_heads(4, 9), None, {"num_heads": 4}, **{"config.json": {"head_size": 8}})


def test_a_class_without_its_wrapper_is_read_by_its_orientation() -> None:
    bare = {
        name.removeprefix("transformer."): array for name, array in tensors_of("nanogpt").items()
    }
    assert found(bare, None, {"num_heads": 5}).dialect.name == "nanogpt"
    conv = {name.removeprefix("transformer."): array for name, array in tensors_of("gpt2").items()}
    assert found(conv, None, {"num_heads": 5}).dialect.name == "gpt2"


def test_sinusoids_may_go_on_for_longer_than_the_context() -> None:
    tensors = tensors_of("fused")
    tensors["position_embedding.weight"] = sinusoids(17, 35).astype(np.float32)
    report = found(tensors, None, {"num_heads": 5}, **{"the file": {"block_size": 8}}).report
    assert report.read["context_length"] == 17
    with pytest.raises(
        UserError, match="block_size = 8 says context_length = 8, but the tensors show 17"
    ):
        found(tensors_of("fused"), None, {"num_heads": 5}, **{"the file": {"block_size": 8}})


def test_padding_is_hinted_at() -> None:
    assert (
        "names a padding token"
        in found(tensors_of("gpt"), **{"the file": {"config": {"pad_id": 0}}}).report.caveats[-1]
    )


def test_the_kind_of_norms_without_bias_is_assumed() -> None:
    tensors = {
        name: array
        for name, array in tensors_of("nanogpt").items()
        if "ln_" not in name or "bias" not in name
    }
    report = found(tensors, None, {"num_heads": 5}).report
    assert report.assumed["norm_kind"] == "layer"
    report = found(tensors, None, {"num_heads": 5, "norm_kind": "rms"}).report
    assert report.config.norm_kind == "rms"
    assert "norm_std" not in report.assumed
    assert found(tensors_of("nanogpt"), None, {"num_heads": 5}).report.read["norm_kind"] == "layer"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"final_norm": False}, "set final_norm=unused"),
        ({"norm_eps": -1.0}, "weights.pt: norm_eps must not be negative"),
    ],
)
def test_fields_that_cannot_be_are_refused_with_the_file(given: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        found(tensors_of("gpt"), None, given)


def test_positions_that_leave_no_trace_are_asked_for() -> None:
    tensors = {
        name: array
        for name, array in tensors_of("fused").items()
        if not name.startswith("position")
    }
    given = {"num_heads": 5}
    ways = "--set positions=rotary, alibi, none or sinusoidal.*--torch module:Class.*--text TEXT"
    with pytest.raises(UserError, match=f"it has no table of positions.*{ways}"):
        found(tensors, None, given)
    with pytest.raises(UserError, match=f"it has no table of positions.*{ways}"):
        found(tensors, None, given, **{"the file": {"block_size": 9}})
    given = {**given, "positions": "rotary"}
    with pytest.raises(UserError, match=r"nothing shows how long .*--set context_length=N"):
        found(tensors, None, given)
    report = found(
        tensors, None, {"num_heads": 5, "context_length": 9, "positions": "alibi"}
    ).report
    assert "rotary_theta" not in report.assumed
    with pytest.raises(
        UserError, match="positions = learned was given, but the file has no position table"
    ):
        found(tensors, None, given | {"context_length": 9, "positions": "learned"})
    with pytest.raises(UserError, match="a context length of 1000000000000 is more than"):
        found(tensors, None, given, **{"config.json": {"max_seq_len": 10**12}})


FICTION = """
    from convert.rows.dialect import Dialect
    from convert.rows.fields import USUAL
    from convert.rows.kinds import linear, norm, row

    DIALECTS = (
        Dialect(
            name="fiction",
            about="a class that nobody wrote",
            rows=(
                row("token_embedding/embedding : v d", "ord.weight : v d"),
                row("pos_embedding/embedding : t d", "plats.weight : t d"),
                *linear("blocks/attn/qkv : layer d head qkv k", "lager.{layer}.blick : (head k qkv) d", "no"),
                *linear("blocks/attn/out : layer head k d", "lager.{layer}.svar : d (head k)"),
                *linear("blocks/mlp/up : layer d f", "lager.{layer}.upp : f d"),
                *linear("blocks/mlp/down : layer f d", "lager.{layer}.ner : d f"),
                *norm("blocks/norm1", "lager.{layer}.norm_a"),
                *norm("blocks/norm2", "lager.{layer}.norm_b"),
                *norm("final_norm", "norm_c"),
                *linear("head : d v", "svar : v d"),
            ),
            unsaid={**USUAL, "activation": "gelu"},
        ),
    )
"""


MODERN_FICTION = """
    from convert.rows.dialect import Dialect
    from convert.rows.fields import MODERN
    from convert.rows.kinds import linear, norm, row, tied

    DIALECTS = (
        Dialect(
            name="fiction",
            about="a modern class that nobody wrote",
            rows=(
                row("token_embedding/embedding : v d", "ord.weight : v d"),
                *linear("blocks/attn/qkv : layer d head qkv k", "lager.{layer}.blick.{qkv} : (head k) d", "no"),
                *linear("blocks/attn/out : layer head k d", "lager.{layer}.svar : d (head k)", "no"),
                *linear("blocks/mlp/gate_up : layer d glu f", "lager.{layer}.in : (f glu) d", "no"),
                *linear("blocks/mlp/down : layer f d", "lager.{layer}.ut : d f", "no"),
                *norm("blocks/norm1", "lager.{layer}.a", "no"),
                *norm("blocks/norm2", "lager.{layer}.b", "no"),
                *norm("final_norm", "c", "no"),
                tied("huvud.weight : v d"),
            ),
            words={"qkv": ("query=fraga key=nyckel value=varde",)},
            unsaid=MODERN,
            grouped=True,
            layout="interleaved",
        ),
    )
"""


def with_fiction(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The registry with the dialect that `text` declares."""
    (folder / "fiction.py").write_text(textwrap.dedent(text))
    monkeypatch.setattr(dialects, "__path__", [*dialects.__path__, str(folder)])
    known = dialects.find_all()
    del sys.modules["convert.dialects.fiction"]
    for module in (detecting, candidates, registry):
        monkeypatch.setattr(module, "DIALECTS", known)
    return known


def test_a_modern_dialect_is_one_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dialect = with_fiction(MODERN_FICTION, tmp_path, monkeypatch)["fiction"]
    grouped = {"num_heads": 6, "num_kv_heads": 2, "rotary_layout": "interleaved"}
    config = ModelConfig(**{**vars(config_of(dialect)), **grouped})
    params = random_params(config, np.dtype("float32"))
    tensors = to_torch(dialect, config, params)
    given = {"num_heads": 6, "context_length": 17, "rotary_layout": "interleaved"}
    detected = found(tensors, None, given)
    assert detected.dialect.name == "fiction"
    assert detected.report.config == config
    mlp = params["blocks"]["mlp"]["gate_up"]["kernel"][1]
    np.testing.assert_array_equal(tensors["lager.1.in.weight"][1::2], mlp[:, 1].T)
    halves = params["blocks"]["attn"]["qkv"]["kernel"][1, :, 0, 1]  # the second query head
    width = config.head_dim
    neighbours = tensors["lager.1.blick.fraga.weight"][width : 2 * width]
    np.testing.assert_array_equal(neighbours[0::2], halves[:, : width // 2].T)


def test_a_new_dialect_is_one_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = with_fiction(FICTION, tmp_path, monkeypatch)
    config = config_of(known["fiction"])
    params = random_params(config, np.dtype("float32"))
    tensors = to_torch(known["fiction"], config, params)
    detected = found(tensors, None, {"num_heads": 5})
    assert detected.dialect.name == "fiction"
    assert detected.report.config == ModelConfig(
        **{**vars(config), "activation": "gelu", "dropout": 0.0}
    )
    query = params["blocks"]["attn"]["qkv"]["kernel"][1, :, :, 0]
    np.testing.assert_array_equal(tensors["lager.1.blick.weight"][0::3], query.reshape(35, 35).T)

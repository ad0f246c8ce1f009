"""`to-flax --torch`: the class of a file settles what its tensors leave open, or nothing is written."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from convert import reference, to_flax  # noqa: E402
from convert.foreign.float64 import in_float64  # noqa: E402
from convert.measuring.subject import Differs  # noqa: E402
from convert.proving.verify import verify  # noqa: E402
from jaxgpt.config import ModelConfig  # noqa: E402
from tests.classes import disguised, general, modern, unseen  # noqa: E402
from tests.convert.proving.test_verdict import randomised  # noqa: E402
from tests.helpers import PRIMES  # noqa: E402

HERE = Path(modern.__file__).parent
# Class -> arguments, and fields that it has and that no tensor shows.
CLASSES: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]] = {
    "the reference": (reference.GPT, PRIMES, {"activation": "relu", "norm": "pre"}),
    "gelu": (unseen.Gelu, PRIMES, {"activation": "gelu"}),
    "post-norm": (unseen.PostNorm, PRIMES, {"activation": "gelu", "norm": "post"}),
    "scaled": (unseen.Scaled, PRIMES, {"embedding_scale": 35**0.5}),
    "rotary": (
        unseen.Rotary,
        {**PRIMES, "model_dim": 40},
        {"positions": "rotary", "rotary_theta": 1e4, "rotary_layout": "half"},
    ),
    "nameless": (unseen.Nameless, PRIMES, {"activation": "relu", "num_heads": 5}),
    "bare parameters": (
        modern.Kvarnar,
        {},
        {
            "positions": "rotary", "rotary_layout": "interleaved", "rotary_theta": 50000.0, "norm_kind": "rms",
            "norm_eps": "dtype", "activation": "silu", "embedding_scale": 32**0.5, "num_kv_heads": 2, "num_heads": 4,
        },
    ),
    "another epsilon": (disguised.OtherEpsilon, {}, {"norm_eps": 3e-6}),
    "tanh gelu": (disguised.TanhGelu, {}, {"activation": "gelu_tanh"}),
    "scaled by the width": (disguised.WidthScaled, {}, {"attention_scale": "model_dim"}),
    "root": (disguised.RootEmbedding, {}, {"embedding_scale": 35**0.5}),
}  # fmt: skip
# Class -> the stage in which it parts from every model.
ODD = {
    "OddKvarnar": "block 0",
    "LateKvarnar": "block 1",
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_settles_every_field(name: str) -> None:
    make, sizes, fields = CLASSES[name]
    with in_float64():  # or tables that are no buffers would stay float32
        module = randomised(make(**sizes))
    module.max_seq_len = 16  # as nothing else shows it without a table of positions
    loaded = to_flax(module.state_dict(), torch=module)
    assert loaded.proven_by
    assert not loaded.report.assumed.keys() - {"dropout"}
    assert {field: getattr(loaded.config, field) for field in fields} == fields


@pytest.mark.parametrize("name", ODD)
def test_what_no_field_says_is_refused_where_it_shows(
    name: str, tmp_path: Path, command: Callable[..., Any]
) -> None:
    module = randomised(getattr(modern, name)())
    torch.save(module.state_dict(), tmp_path / "odd.pt")
    asked = ["jaxgpt-convert", "to-flax", tmp_path / "odd.pt", tmp_path / "model"]
    outcome = command(*asked, "--torch", f"{HERE / 'modern.py'}:{name}")
    assert outcome.code == 3
    assert f"its class and the model DIFFER, first in {ODD[name]}: " in outcome.out
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "name",
    [
        "ScaledResidual",
        "NormedTwice",
        "LastWithoutResidual",
        "PositionsFromTheEnd",
        "LatePositions",
    ],
)
def test_other_functions_are_refused(name: str, primes_file: Path) -> None:
    with pytest.raises(Differs, match="DIFFER, first in "):
        to_flax(primes_file, torch=f"{disguised.__file__}:{name}")


def test_the_command_names_the_fields_and_the_proof(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    torch.save(randomised(modern.Kvarnar()).state_dict(), tmp_path / "file.pt")
    asked = ["jaxgpt-convert", "to-flax", tmp_path / "file.pt", tmp_path / "model"]
    outcome = command(*asked, "--torch", f"{HERE / 'modern.py'}:Kvarnar")
    assert outcome.code == 0, outcome
    assert "found with the class:\n  embedding_scale = 5.65" in outcome.out
    assert "PROVEN: the two compute the same function" in outcome.out
    again = command("jaxgpt-convert", "to-torch", tmp_path / "model", tmp_path / "back.pt")
    assert again.code == 0, again
    back, file = torch.load(tmp_path / "back.pt"), torch.load(tmp_path / "file.pt")
    assert list(back) == list(file)
    assert all(torch.equal(back[name], file[name]) for name in file)


def test_a_given_field_that_the_class_contradicts_is_refused(primes_file: Path) -> None:
    with pytest.raises(Differs, match="activation is 'relu' in the class and 'gelu' otherwise"):
        to_flax(primes_file, torch="convert.reference:GPT", activation="gelu")


MUTATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "layout": ({"rotary_layout": "half"}, "block 0"),
    "theta": ({"rotary_theta": 1e4}, "block 0"),
    "epsilon": ({"norm_eps": 1e-6}, "block 0"),
    "cap of scores": ({"attention_softcap": None}, "block 0"),
    "cap of logits": ({"logit_softcap": None}, "logits"),
    "scale of scores": ({"attention_scale": "head_dim"}, "block 0"),
    "scale of logits": ({"logit_scale": 1.0}, "logits"),
    "scale of embeddings": ({"embedding_scale": 1.0}, "embedding"),
    "window": ({"window": None}, "block 0"),
    "activation": ({"activation": "gelu"}, "block 0"),
}


@pytest.fixture(scope="module")
def llama_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama") / "file.pt"
    torch.save(randomised(modern.llama()).state_dict(), path)
    return path


@pytest.mark.parametrize("name", MUTATIONS)
def test_verify_shows_where_a_wrong_field_parts_and_its_right_value(
    name: str, llama_file: Path, tmp_path: Path
) -> None:
    wrong, stage = MUTATIONS[name]
    fields = {**modern.FIELDS, **wrong, "num_heads": 4, "context_length": 13}
    to_flax(llama_file, dialect="llama", **fields).save(tmp_path / "m")
    page = verify(llama_file, tmp_path / "m", torch_class=f"{modern.__file__}:llama")
    assert (page.verdict, page.first_difference) == ("differs", stage)
    assert page.agreeing is not None
    assert page.agreeing.fields == {field: modern.FIELDS[field] for field in wrong}


def test_verify_proves_the_right_fields(llama_file: Path, tmp_path: Path) -> None:
    fields = {**modern.FIELDS, "num_heads": 4, "context_length": 13}
    to_flax(llama_file, dialect="llama", **fields).save(tmp_path / "m")
    page = verify(llama_file, tmp_path / "m", torch_class=f"{modern.__file__}:llama")
    assert page.verdict == "proven"


def random_fields(r: random.Random) -> dict[str, Any]:
    """Fields of a small decoder; every field that a class may have without a trace varies."""
    rms, weights = r.random() < 0.6, r.random() < 0.85
    residual = r.choice(["sequential"] * 3 + ["parallel", "parallel_one_norm"])
    norm = (
        r.choice(["pre", "pre", "post", "output", "residual"])
        if residual == "sequential"
        else "pre"
    )
    extra = ["sandwich"] * (norm == "pre" and residual == "sequential" and r.random() < 0.25)
    extra += ["embedding"] * (r.random() < 0.2)
    heads, blocks, tied = r.choice([2, 4, 6]), r.choice([1, 2, 3]), r.random() < 0.4
    places = ["none", "none", "before_rotary", "after_rotary", "full_width"]
    return {
        "vocab_size": 37, "context_length": 13, "model_dim": 24, "num_blocks": blocks, "num_heads": heads,
        "num_kv_heads": r.choice([k for k in (1, 2, 3, 6) if heads % k == 0]), "head_dim": r.choice([4, 8]),
        "mlp_dim": r.choice([20, 40]), "norm": norm, "residual": residual, "extra_norms": extra,
        "norm_kind": "rms" if rms else "layer",
        "norm_std": "unbiased_plus_eps" if not rms and r.random() < 0.3 else "biased",
        "norm_weight": weights, "norm_bias": weights and not rms and r.random() < 0.7,
        "norm_unit_offset": weights and r.random() < 0.3,
        "norm_eps": r.choice([1e-5, 1e-6, 3e-6, 1e-8, 1e-12] + ["dtype"] * rms),
        "final_norm": r.random() < 0.8, "activation": r.choice(list(general.ACTIVATIONS)),
        "mlp_gated": r.random() < 0.5, "mlp_bias": r.random() < 0.5, "qkv_bias": r.random() < 0.4,
        "attention_out_bias": r.random() < 0.4, "tied": tied, "head_bias": not tied and r.random() < 0.4,
        "positions": r.choice(["rotary"] * 4 + ["learned", "sinusoidal", "alibi", "none"]),
        "rotary_layout": r.choice(["half", "interleaved"]), "rotary_fraction": r.choice([1.0, 1.0, 0.5]),
        "rotary_theta": r.choice([1e4, 5e5, 1e6, 123.0, [100.0, 1e4, 1e6][:blocks]]),
        "sinusoidal_layout": r.choice(["half", "interleaved"]),
        "qk_norm": r.choice(places if weights else ["none", "before_rotary"]),
        "attention_scale": r.choice(["head_dim", "head_dim", "model_dim", "none", 0.3]),
        "attention_scale_by_layer": r.random() < 0.1,
        "attention_softcap": r.choice([None] * 6 + [5.0, 20.0, 7.3]),
        "window": r.choice([None] * 4 + [4, [3, None, 5][:blocks]]),
        "embedding_scale": r.choice([1.0, 24**0.5, 0.7]), "logit_scale": r.choice([1.0, 1.0, 0.25]),
        "logit_softcap": r.choice([None] * 3 + [3.0, 15.0]), "dropout": 0.0,
    }  # fmt: skip


def random_class(seed: int) -> tuple[ModelConfig, Any]:
    """A class of random fields, and of random names for all of its parts."""
    r = random.Random(seed)
    config, names = ModelConfig(**random_fields(r)), {}
    for part in general.NAMES:
        letters = "".join(r.choice("abcdefghijklmnoprstuvxyz") for _ in range(r.randint(2, 6)))
        names[part] = letters + "aeiou"[len(names) % 5] * (letters in names.values())
    names = {
        part: f"z{word}" if hasattr(torch.nn.Module, word) else word for part, word in names.items()
    }
    torch.manual_seed(seed)
    module = general.General(config, names, fused=r.random() < 0.3)
    with torch.no_grad():
        for name, value in module.named_parameters():
            scale = name.endswith("weight") and not config.norm_unit_offset
            noise = torch.randn_like(value)
            value.copy_(
                noise * value.shape[1] ** -0.5 * 1.5 if value.ndim == 2 else noise * 0.2 + scale
            )
    return config, module


def check_random_class(seed: int) -> str:
    """How a random class ended: proven, or named where it parts; anything else is an error."""
    _, module = random_class(seed)
    try:
        loaded = to_flax(module.state_dict(), torch=module)
    except Differs as differs:
        return str(differs)
    assert loaded.proven_by
    return ""


@pytest.mark.parametrize("seed", range(3))
def test_random_classes_are_proven(seed: int) -> None:
    assert check_random_class(seed) == ""


@pytest.mark.slow
@pytest.mark.parametrize("start", range(100, 1100, 50))
def test_no_random_class_becomes_a_wrong_model(start: int) -> None:
    """Each is proven, but for some whose capped scores are not found; those are refused."""
    refusals = [check_random_class(seed) for seed in range(start, start + 50)]
    refusals = [text for text in refusals if text]
    assert len(refusals) <= 5, refusals

"""Random encoder-decoders with random names are converted correctly, or open fields are asked for or assumed openly."""

import random
from typing import Any

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import convert  # noqa: E402
from convert.detect.errors import Asked  # noqa: E402
from convert.foreign.float64 import in_float64  # noqa: E402
from convert.rows.fields import is_relevant  # noqa: E402
from jaxgpt.config import ModelConfig  # noqa: E402
from jaxgpt.errors import UserError  # noqa: E402
from jaxgpt.model import assemble  # noqa: E402
from jaxgpt.seq2seq_config import (  # noqa: E402
    ENCODER,
    Seq2SeqConfig,
    as_options,
    field_of,
    fields_of,
)
from tests.classes import pairs  # noqa: E402

# What people call the parts of such classes.
WORDS: dict[str, list[tuple[str, ...]]] = {
    "blocks": [("layers",), ("blocks",), ("layer_stack",)],
    "self cross": [
        ("self_attn", "cross_attn"), ("self_attention", "cross_attention"), ("self_mha", "cross_mha"),
        ("self_attn", "encoder_attn"), ("masked_attn", "enc_dec_attn"), ("attention1", "attention2"),
    ],
    "query key value": [
        ("q_proj", "k_proj", "v_proj"), ("w_q", "w_k", "w_v"), ("query", "key", "value"), ("wq", "wk", "wv"),
    ],
    "fused": [("qkv",), ("qkv_proj",), ("in_proj",), ("c_attn",)],
    "key_value": [("kv",), ("kv_proj",), ("to_kv",)],
    "out": [("out_proj",), ("w_o",), ("fc_out",), ("proj",)],
    "mlp up down": [
        ("ffn", "linear1", "linear2"), ("feed_forward", "fc1", "fc2"), ("mlp", "up_proj", "down_proj"),
        ("pos_ffn", "w_1", "w_2"),
    ],
    "norm1 norm2 norm3": [
        ("norm1", "norm2", "norm3"), ("ln1", "ln2", "ln3"), ("layer_norm1", "layer_norm2", "layer_norm3"),
    ],
    "final": [("norm",), ("ln_f",), ("layer_norm",)],
    "embedding positions": [
        ("embedding", "pos_embedding"), ("token_embedding", "position_embedding"), ("tok_emb", "pos_emb"),
    ],
    "head": [("generator",), ("lm_head",), ("fc_out",), ("projection",)],
}  # fmt: skip
# Fields that no tensor shows, of which some are set by the user.
OPEN = (
    "norm", "activation", "attention_scale", "norm_kind", "norm_std", "norm_eps", "embedding_scale", "num_heads",
    "positions", "context_length",
)  # fmt: skip


def random_names(r: random.Random) -> dict[str, str]:
    names = {}
    for parts, choices in WORDS.items():
        names |= dict(zip(parts.split(), r.choice(choices), strict=True))
    return names


def random_side(r: random.Random, norms: dict[str, Any], **sizes: Any) -> dict[str, Any]:
    """The fields of a side; those of its norms are as in `norms`."""
    norm, positions = (
        r.choice(["pre", "post"]),
        r.choice(["learned", "learned", "sinusoidal", "none"]),
    )
    return {
        **norms, **sizes, "model_dim": 24, "num_heads": r.choice([2, 3, 4, 6]), "mlp_dim": r.choice([20, 40]),
        "context_length": r.choice([11, 13]), "norm": norm, "final_norm": r.random() < (0.9 if norm == "pre" else 0.3),
        "activation": r.choice(["relu", "gelu", "gelu_tanh", "silu", "relu2"]), "positions": positions,
        "embedding_scale": r.choice([1.0, 24**0.5]), "qkv_bias": r.random() < 0.5, "dropout": 0.0,
        "attention_out_bias": r.random() < 0.5, "mlp_bias": r.random() < 0.8,
        "attention_scale": r.choice(["head_dim", "head_dim", "head_dim", "model_dim", "none"]),
    }  # fmt: skip


def random_pair(seed: int) -> tuple[Seq2SeqConfig, Any, random.Random]:
    """A class of random fields, names, layout and way of calling."""
    r = random.Random(seed)
    rms = r.random() < 0.2
    norms = {
        "norm_kind": "rms" if rms else "layer", "norm_bias": not rms and r.random() < 0.9,
        "norm_std": "unbiased_plus_eps" if not rms and r.random() < 0.2 else "biased",
        "norm_eps": r.choice([1e-5, 1e-6, 1e-8]),
    }  # fmt: skip
    shares, tied = r.random() < 0.3, r.random() < 0.3
    source = 29 if shares else 23
    encoder = random_side(r, norms, vocab_size=source, num_blocks=r.choice([1, 2, 3]))
    decoder = random_side(r, norms, vocab_size=29, num_blocks=r.choice([1, 2, 3]))
    more = {"cross_attention": True, "tied": tied, "head_bias": not tied and r.random() < 0.5}
    config = Seq2SeqConfig(
        ModelConfig(**encoder, shares_embedding=shares), ModelConfig(**decoder, **more)
    )
    fused, names = r.choice(["", "", "two", "one"]), random_names(r)
    module = r.choice(pairs.CALLED)(config, names, fused)
    return config, pairs.randomised(module, seed), r


def some_given(config: Seq2SeqConfig, r: random.Random) -> dict[str, Any]:
    """The values of some of the open fields, and of all that have no usual value."""
    given = {}
    for name in OPEN:
        for prefix in ("", ENCODER):
            if r.random() < 0.4 or name == "num_heads":
                given[prefix + name] = field_of(config, prefix + name)
    if field_of(config, "positions") == "learned":
        given.pop("context_length", None)
    return given


def outcome(seed: int) -> str:
    """How the file of a random class ended without its class: right, asked, refused or assumed."""
    wanted, module, r = random_pair(seed)
    given = some_given(wanted, r)
    loaded = None
    while loaded is None:
        missing, said, problem = "", [], ""
        try:
            loaded = convert.to_flax(module.state_dict(), **as_options(given))
        except Asked as asked:
            missing = asked.field
        except UserError as error:
            problem = str(error)
            said = [name for name in given if f"{name.removeprefix(ENCODER)} = " in problem]
        if missing and r.random() < 0.1:
            return "asked"
        if missing:
            assert missing not in given
            given[missing] = field_of(wanted, missing)
        assert said or not problem, problem  # it says what the tensors show of a field that was set
        given = {name: value for name, value in given.items() if name not in said}
    wrong = {
        name
        for name, value in fields_of(wanted).items()
        if means_anything(name, wanted) and field_of(loaded.config, name) != pytest.approx(value)
    }
    assert wrong <= loaded.report.assumed.keys(), (seed, wrong)
    require_same(module, assemble(wanted, loaded.params), wanted, seed)
    return "assumed" if wrong else "right"


def means_anything(name: str, config: Seq2SeqConfig) -> bool:
    side = config.encoder if name.startswith(ENCODER) else config.decoder
    plain = name.removeprefix(ENCODER)
    of_decoders = plain in ("tied", "head_bias", "logit_scale", "logit_softcap")
    if plain == "context_length" and side.positions in ("none", "sinusoidal"):
        return False
    return is_relevant(plain, vars(side)) and not (of_decoders and name != plain)


def require_same(module: Any, model: Any, config: Seq2SeqConfig, seed: int) -> None:
    """Require that `module` and `model`, which has the right fields, give the same tokens."""
    rng = np.random.default_rng(seed)
    source = rng.integers(0, config.encoder.vocab_size, (2, 7))
    tokens = rng.integers(0, config.decoder.vocab_size, (2, 5))
    with jax.enable_x64(True), jax.disable_jit(), in_float64():
        convert.assert_same(module, model, tokens, source=source)


# In 116 the decoder alone has a table of positions, and it is said to.
@pytest.mark.parametrize("seed", [0, 1, 2, 116])
def test_a_random_pair_is_right_or_asked_about_or_assumed_openly(seed: int) -> None:
    outcome(seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(100, 300, 20))
def test_no_random_pair_is_silently_wrong(start: int) -> None:
    outcomes = [outcome(seed) for seed in range(start, start + 20)]
    assert {"right", "assumed"} & {*outcomes}


@pytest.mark.slow
@pytest.mark.parametrize("start", range(100, 140, 10))
def test_the_class_proves_random_pairs(start: int) -> None:
    for seed in range(start, start + 10):
        wanted, module, _ = random_pair(seed)
        loaded = convert.to_flax(module.state_dict(), torch=module)
        assert loaded.proven_by
        for name in ("norm", "activation", "num_heads", f"{ENCODER}norm", f"{ENCODER}num_heads"):
            assert field_of(loaded.config, name) == field_of(wanted, name), (seed, name)

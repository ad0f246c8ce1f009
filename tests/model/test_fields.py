"""Every field of the model against the same formula written out plainly, in float64."""

import typing
from typing import Any

import jax
import numpy as np
import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.model import GPT, abstract_params, assemble
from jaxgpt.model.mlp import ACTIVATIONS
from jaxgpt.model.norms import NORMALISE
from jaxgpt.pytree import flatten, unflatten
from jaxgpt.storage.model_directory import to_device
from tests.model import plain_decoder

SIZES: dict[str, Any] = {
    "vocab_size": 13, "context_length": 11, "model_dim": 12, "num_blocks": 2, "num_heads": 6,
    "num_kv_heads": 2, "head_dim": 8, "mlp_dim": 17, "dropout": 0.0,
}  # fmt: skip
LLAMA: dict[str, Any] = {
    "positions": "rotary", "norm_kind": "rms", "norm_bias": False, "mlp_gated": True,
    "activation": "silu", "attention_out_bias": False, "mlp_bias": False, "head_bias": False,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 2.5}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 8.0,
    "beta_slow": 1.0,
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "llama": LLAMA,
    "one key head": LLAMA | {"num_kv_heads": 1, "tied": True},
    "key heads for all": LLAMA | {"num_kv_heads": 6, "qkv_bias": True},
    "theta": LLAMA | {"rotary_theta": 50.0},
    "part of a head": LLAMA | {"rotary_fraction": 0.5, "rotary_theta": 100.0},
    "theta by layer": LLAMA | {"rotary_theta": [100.0, None], "window": [3, None]},
    "linear": LLAMA | {"rotary_scaling": LINEAR},
    "scaling by layer": LLAMA | {"rotary_scaling": [None, LINEAR]},
    "llama3": LLAMA | {"rotary_scaling": LLAMA3, "head_dim": 16},
    "yarn": LLAMA | {"rotary_scaling": YARN, "head_dim": 16},
    "window": LLAMA | {"window": 4},
    "alibi": {"positions": "alibi", "norm": "residual", "extra_norms": ["embedding"]},
    "alibi of eight": {"positions": "alibi", "num_heads": 8, "attention_softcap": 0.7},
    "no positions": {"positions": "none"},
    "sines first": {"positions": "sinusoidal", "sinusoidal_layout": "half"},
    "stored sines": {"positions": "sinusoidal", "sinusoidal_layout": "half",
                     "positions_stored": True, "positions_offset": 2},
    "gemma": LLAMA | {"norm_unit_offset": True, "embedding_scale": 12**0.5,
                      "activation": "gelu_tanh", "tied": True},
    "gemma2": LLAMA | {"norm_unit_offset": True, "extra_norms": ["sandwich"],
                       "attention_softcap": 5.0, "logit_softcap": 3.0, "attention_scale": 0.3,
                       "window": [4, None]},
    "qwen3": LLAMA | {"qk_norm": "before_rotary"},
    "after": LLAMA | {"qk_norm": "after_rotary", "norm_weight": False, "activation": "relu2",
                      "mlp_gated": False, "norm_eps": "dtype"},
    "olmo2": LLAMA | {"norm": "output", "qk_norm": "full_width"},
    "qk norms with biases": {"qk_norm": "full_width", "positions": "rotary"},
    "neox": {"positions": "rotary", "rotary_fraction": 0.25, "residual": "parallel",
             "activation": "gelu", "qkv_bias": True},
    "gptj": {"positions": "rotary", "residual": "parallel_one_norm", "activation": "gelu_tanh",
             "logit_scale": 0.25},
    "annotated": {"norm_std": "unbiased_plus_eps", "norm_eps": 1e-3, "norm": "post"},
    "unscaled norm with eps 0": LLAMA | {"norm_eps": 0.0, "attention_scale": "none",
                                         "attention_scale_by_layer": True},
    "no weights": {"norm_weight": False, "norm_bias": False},
    "no projection": LLAMA | {"attention_out": False, "head_dim": 2},
}  # fmt: skip


def random_params(config: ModelConfig) -> dict[str, np.ndarray]:
    """Parameters by path, every tensor random, at the scale of a trained model."""
    rng = np.random.default_rng(0)
    flat = {}
    for path, leaf in flatten(abstract_params(config)).items():
        noise = rng.normal(size=leaf.shape)
        if path.endswith("scale"):
            flat[path] = 0.2 * noise + (not config.norm_unit_offset)
        elif path.endswith("bias"):
            flat[path] = 0.3 * noise
        else:
            flat[path] = noise * (1 if "embedding" in path else 2 * config.model_dim**-0.5)
    return flat


def model_of(config: ModelConfig, params: dict[str, np.ndarray]) -> GPT:
    return assemble(config, to_device(unflatten(params)))


def plain_logits(config: ModelConfig, params: dict[str, np.ndarray], tokens: Any) -> np.ndarray:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tensors = {path: torch.from_numpy(array) for path, array in params.items()}
    return plain_decoder.logits(config, tensors, torch.from_numpy(tokens)).numpy()


@pytest.mark.parametrize("case", CASES)
def test_the_model_computes_its_formula(case: str) -> None:
    config = ModelConfig(**SIZES | CASES[case])
    params = random_params(config)
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, (2, 11))
    expected = plain_logits(config, params, tokens)
    ours = model_of(config, params)(tokens)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("case", ["gemma2", "neox", "annotated", "qwen3", "gptj", "yarn"])
def test_without_one_of_its_fields_a_case_computes_something_else(case: str) -> None:
    tokens = np.random.default_rng(1).integers(0, 13, (1, 11))
    config = ModelConfig(**SIZES | CASES[case])
    params = random_params(config)
    expected = model_of(config, params)(tokens)
    for field in CASES[case]:
        rest = {name: value for name, value in CASES[case].items() if name != field}
        other = ModelConfig(**SIZES | rest)
        shapes = {path: leaf.shape for path, leaf in flatten(abstract_params(other)).items()}
        if shapes == {path: array.shape for path, array in params.items()}:
            assert np.abs(model_of(other, params)(tokens) - expected).max() > 1e-6, field


@pytest.mark.parametrize("case", ["llama", "gemma2", "neox", "olmo2", "alibi", "after"])
def test_no_position_sees_the_future_or_beyond_its_window(case: str) -> None:
    config = ModelConfig(**SIZES | CASES[case])
    model = model_of(config, random_params(config))
    ids = np.random.default_rng(2).integers(0, 13, (1, 11))
    with jax.enable_x64(True):
        gradient = jax.jacobian(lambda shift: _logits(model, ids, shift)[0, :, 3])(
            np.zeros((1, 11, 12))
        )
    reached = np.abs(gradient[:, 0]).max(axis=-1) > 0
    np.testing.assert_array_equal(reached, np.tri(11, dtype=bool))


def _logits(model: GPT, ids: np.ndarray, shift: jax.Array) -> jax.Array:
    positions = jax.numpy.arange(ids.shape[1])
    x, _ = model.run(
        model.embed(ids) + shift, lambda block, layer, x, _: block(x, layer, positions)
    )
    return model.read_out(x)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_kv_heads": 4}, r"num_heads 6 does not divide into num_kv_heads 4"),
        ({"rotary_fraction": 0.3}, r"rotary_fraction 0.3 of head_dim 8 is 2|must be an even"),
        ({"rotary_fraction": 0.4}, r"is 3, which must be an even number"),
        ({"window": [3]}, r"window has 1 values, but num_blocks is 2"),
        ({"window": 0}, r"window must be positive, but is 0"),
        ({"rotary_scaling": {"rope_type": "dynamic"}}, r"rope_type 'dynamic'; known are linear"),
        ({"rotary_scaling": {"rope_type": "linear"}}, r"linear lacks factor"),
        ({"rotary_scaling": LINEAR | {"alpha": 1}}, r"has alpha, which is unknown"),
        ({"rotary_scaling": {"rope_type": "linear", "factor": -1}}, r"positive numbers"),
        ({"residual": "parallel", "norm": "post"}, r"residual parallel needs norm = pre"),
        ({"extra_norms": ["both"]}, r"extra_norms takes sandwich and embedding, but got"),
        ({"norm_unit_offset": True, "norm_weight": False}, r"which norm_weight = false leaves"),
        ({"norm_eps": -1.0}, r"norm_eps must not be negative"),
        ({"norm_eps": "float"}, r"norm_eps takes 'dtype', but got 'float'"),
        ({"attention_softcap": 0.0}, r"attention_softcap must be positive"),
        ({"attention_scale": "heads"}, r"attention_scale takes 'head_dim' or"),
    ],
)
def test_incompatible_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    if "rotary_fraction" in fields and fields["rotary_fraction"] == 0.3:
        ModelConfig(**SIZES | LLAMA | fields)  # 2.4 elements are 2
        return
    with pytest.raises(UserError, match=message):
        ModelConfig(**SIZES | LLAMA | fields)


def test_each_kind_of_norm_and_activation_has_its_function() -> None:
    hints = typing.get_type_hints(ModelConfig)
    assert {*typing.get_args(hints["norm_kind"]), "layer_unbiased"} == NORMALISE.keys()
    assert {*typing.get_args(hints["activation"])} == ACTIVATIONS.keys()

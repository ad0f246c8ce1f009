"""What is computed one position at a time is what the whole model computes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.model import GPT, abstract_params, assemble, cache, exactly, params_of
from jaxgpt.pytree import flatten

from .conftest import PRIMES

# Together they make every choice that there is; test_choices sees to that.
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt": {},
    "post, no output projection": {
        "norm": "post", "final_norm": False, "attention_out": False, "attention_scale": "model_dim", "norm_eps": 0.1,
    },
    "sinusoids, scale by layer": {
        "positions": "sinusoidal", "attention_scale_by_layer": True, "qkv_bias": True, "norm_bias": False,
        "activation": "gelu", "head_dim": 6, "mlp_dim": 37,
    },
    "tied with a bias, offset": {
        "tied": True, "activation": "gelu_tanh", "attention_scale": "none", "final_norm": "unused",
        "attention_out_bias": False, "positions_offset": 2,
    },
    "residual, stored sinusoids": {
        "norm": "residual", "positions": "sinusoidal", "positions_stored": True, "positions_offset": 3,
        "mlp_bias": False, "tied": True, "head_bias": False,
    },
}  # fmt: skip


def random_model(dtype: str = "float64", **fields: object) -> GPT:
    """Random in every tensor, at trained scale."""
    config, random = ModelConfig(**{**PRIMES, "dropout": 0.0, **fields}), np.random.default_rng(0)  # type: ignore[arg-type]

    def leaf(shape: tuple[int, ...]) -> jax.Array:
        scale = shape[-2] ** -0.5 if len(shape) > 2 else 0.3
        return jnp.asarray(random.standard_normal(shape) * scale + (len(shape) == 2), dtype)

    with exactly(jnp.dtype(dtype)):
        model = assemble(
            config, jax.tree.map(lambda like: leaf(like.shape), abstract_params(config))
        )
    assert {leaf.dtype.name for leaf in flatten(params_of(model)).values()} == {dtype}
    return model


@pytest.mark.parametrize(
    ("fields", "dtype", "tolerance"),
    [*((fields, "float64", 1e-12) for fields in CONFIGS.values()), ({}, "float32", 1e-5)],
    ids=[*CONFIGS, "in float32"],
)
def test_cached_logits_are_uncached_ones_at_every_position(
    fields: dict[str, object], dtype: str, tolerance: float
) -> None:
    model, context = random_model(dtype, **fields), PRIMES["context_length"]
    tokens = (
        np.random.default_rng(1).integers(0, PRIMES["vocab_size"], (2, context)).astype(np.int32)
    )
    whole = np.asarray(model(tokens))
    scale = np.abs(whole).max()
    lengths = np.array([4, 7], np.int32)
    with exactly(model.dtype):
        blocks, prefill, decode = model.unstacked(), jax.jit(cache.prefill), jax.jit(cache.decode)
        logits, kept = prefill(model, blocks, tokens[:, :7], lengths)
        np.testing.assert_allclose(
            logits, whole[[0, 1], lengths - 1], rtol=0, atol=tolerance * scale
        )
        for _ in range(context - 7):
            logits, kept = decode(model, blocks, kept, tokens[[0, 1], lengths], lengths)
            np.testing.assert_allclose(
                logits, whole[[0, 1], lengths], rtol=0, atol=tolerance * scale
            )
            lengths += 1
        logits, _ = prefill(model, blocks, tokens, lengths)
        np.testing.assert_allclose(
            logits, whole[[0, 1], lengths - 1], rtol=0, atol=tolerance * scale
        )

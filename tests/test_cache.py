"""What is computed one position at a time is what the whole model computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt import cache
from jaxgpt.config import ModelConfig
from jaxgpt.model import GPT, exactly, params_of
from jaxgpt.tree import flatten

from .conftest import PRIMES

CONFIGS = {
    "gpt": {},
    "post, no output projection": {"norm": "post", "final_norm": False, "attention_out": False},
    "sinusoids, scale by layer": {"positions": "sinusoidal", "attention_scale_by_layer": True, "qkv_bias": True},
    "tied": {"tied": True, "activation": "gelu_tanh", "attention_scale": "none"},
}


def random_model(dtype: str = "float64", **fields: object) -> GPT:
    """Random in every tensor, at trained scale."""
    model = GPT(ModelConfig(**{**PRIMES, "dropout": 0.0, **fields}))  # type: ignore[arg-type]
    random = np.random.default_rng(0)
    with exactly(jnp.dtype(dtype)):
        for leaf in jax.tree.leaves(model, is_leaf=lambda x: hasattr(x, "set_value")):
            scale = leaf.shape[-2] ** -0.5 if leaf.ndim > 2 else 0.3
            leaf.set_value(jnp.asarray(random.standard_normal(leaf.shape) * scale + (leaf.ndim == 2), dtype))
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
    tokens = np.random.default_rng(1).integers(0, PRIMES["vocab_size"], (2, context)).astype(np.int32)
    whole = np.asarray(model(tokens))
    scale = np.abs(whole).max()
    lengths = np.array([4, 7], np.int32)
    with exactly(model.dtype):
        logits, kept = jax.jit(cache.prefill)(model, tokens[:, :7], lengths)
        blocks, decode = cache.unstack(model), jax.jit(cache.decode)
        np.testing.assert_allclose(logits, whole[[0, 1], lengths - 1], rtol=0, atol=tolerance * scale)
        for _ in range(context - 7):
            logits, kept = decode(model, blocks, kept, tokens[[0, 1], lengths], lengths)
            np.testing.assert_allclose(logits, whole[[0, 1], lengths], rtol=0, atol=tolerance * scale)
            lengths += 1
        logits = jax.jit(cache.window)(model, blocks, tokens, lengths)
        np.testing.assert_allclose(logits, whole[[0, 1], lengths - 1], rtol=0, atol=tolerance * scale)

"""What is computed one position at a time is what the whole model computes."""

import jax
import numpy as np
import pytest

from jaxgpt.model import cache, exactly
from tests.helpers import CONFIGS, PRIMES, random_model


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

"""Decoding one position at a time gives what the whole model computes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.model import cache, exactly
from jaxgpt.model.extend import Text, extend
from tests.helpers import CONFIGS, PRIMES, random_model, random_pair

READ, PREFILL = (jax.jit(each, static_argnums=4) for each in (cache.read, cache.prefill))
EXTEND, DECODE = jax.jit(extend), jax.jit(cache.decode)
# Windows smaller and larger than the pieces in which prompts are read, and in one layer alone.
WINDOWS: dict[str, dict[str, Any]] = {
    f"{positions}, window {window}": {
        "positions": positions,
        "window": window,
        "num_blocks": 2,
        "num_heads": 2,
        "head_dim": 6,
    }
    for positions, window in [
        ("learned", 4), ("rotary", 9), ("rotary", [None, 5]), ("alibi", 3), ("alibi", [4, None])
    ]
}  # fmt: skip
KINDS: dict[str, tuple[dict[str, Any], str, float]] = {
    **{name: (fields, "float64", 1e-12) for name, fields in (CONFIGS | WINDOWS).items()},
    "in float32": ({}, "float32", 1e-5),
}


@pytest.mark.parametrize(("fields", "dtype", "tolerance"), KINDS.values(), ids=KINDS)
def test_cached_logits_are_uncached_ones_however_the_prompts_were_read(
    fields: dict[str, Any], dtype: str, tolerance: float
) -> None:
    """At every position after prompts read at once, and after pieces, of which the last reaches past the context.

    Rows end in different pieces, one before any.
    """
    model, context = random_model(dtype, **fields), PRIMES["context_length"]
    draw, rows = np.random.default_rng(1).integers, np.arange(4)
    tokens = draw(0, PRIMES["vocab_size"], (4, context)).astype(np.int32)
    whole = np.asarray(model(tokens))
    blocks = model.unstacked()

    def require_same(logits: Any, lengths: np.ndarray) -> None:
        """Require the logits after so many tokens of each row."""
        expected, atol = whole[rows, lengths - 1], tolerance * np.abs(whole).max()
        np.testing.assert_allclose(logits, expected, rtol=0, atol=atol)

    def require_decoded(kept: Any, lengths: np.ndarray, steps: int) -> None:
        for _ in range(steps):
            newest = np.minimum(lengths, context - 1)  # again, where a row is full
            logits, kept = DECODE(model, blocks, kept, tokens[rows, newest], newest)
            lengths = newest + 1
            require_same(logits, lengths)

    with exactly(model.dtype):
        lengths = np.array([1, 4, 7, context], np.int32)
        logits, kept = PREFILL(model, blocks, tokens, lengths, context)
        require_same(logits, lengths)
        require_decoded(kept, lengths, context - 1)
        lengths = np.array([0, 3, 7, context - 1], np.int32)
        _, kept = READ(model, blocks, tokens[:, :2], lengths, context)
        for start in range(2, context - 1, 5):
            piece = np.pad(tokens, ((0, 0), (0, 5)))[:, start : start + 5]
            kept = EXTEND(model, blocks, kept, Text(piece, np.int32(start), lengths))
        require_decoded(kept, lengths, 2)


# Positions of every kind but learned ones with a window in one layer, in both or in none, groups of queries, and a
# norm of queries and keys; what differs with rotary positions is above too.
MIXED = [
    ("sinusoidal", 2, [4, None], "before_rotary"),
    ("rotary", 1, [4, None], "after_rotary"),
    ("alibi", 6, None, "full_width"),
    ("none", 2, 4, "none"),
]


@pytest.mark.parametrize(("positions", "groups", "window", "qk_norm"), MIXED)
def test_every_kind_of_attention_is_cached(
    positions: str, groups: int, window: Any, qk_norm: str
) -> None:
    """Past the trained context where positions are not a table; no slot is stored that is never used."""
    model = random_model(
        positions=positions, num_kv_heads=groups, window=window, qk_norm=qk_norm,
        context_length=11 if positions == "sinusoidal" else 6,
        num_heads=6, head_dim=4, model_dim=8, num_blocks=2,
    )  # fmt: skip
    tokens = np.random.default_rng(1).integers(0, PRIMES["vocab_size"], (2, 11)).astype(np.int32)
    lengths = np.array([3, 6], np.int32)
    with exactly(model.dtype):
        blocks = model.unstacked()
        whole = np.asarray(jax.jit(type(model).logits)(model, tokens))
        logits, kept = PREFILL(model, blocks, tokens[:, :7], lengths, 11)
        stored = sum(leaf.size for leaf in jax.tree.leaves(kept))
        longer = dataclasses.replace(model.config, context_length=11)
        assert stored == 2 * cache.elements(longer)  # for two rows
        slots = [min(each or 11, 11) for each in model.config.by_layer("window")]
        assert [each.shape for each in kept.keys_bmsh] == [(2, groups, n, 4) for n in slots]
        assert [each.shape for each in kept.values_bmsh] == [(2, groups, n, 4) for n in slots]
        for _ in range(5):
            np.testing.assert_allclose(logits, whole[[0, 1], lengths - 1], rtol=0, atol=1e-12)
            logits, kept = DECODE(model, blocks, kept, tokens[[0, 1], lengths], lengths)
            lengths = lengths + 1  # in place, it could change before decode has read it
        np.testing.assert_allclose(logits, whole[[0, 1], lengths - 1], rtol=0, atol=1e-12)


# The places of the norms, and whatever a cross-attention has of its own: scales, biases, groups of
# queries and norms of queries and keys.
ACROSS = [
    "post, no output projection",
    "sinusoids, scale by layer",
    "residual, stored sinusoids",
    "gemma",
    "olmo",
]


@pytest.mark.parametrize("name", ACROSS)
def test_a_pair_is_cached_with_the_keys_and_values_of_padded_sources(name: str) -> None:
    """Cached decoding is the model on the whole target, at every position."""
    model = random_pair("float64", **CONFIGS[name])
    source, mask, targets = padded_sources()
    whole = np.asarray(model(source, targets, mask))
    scale = np.abs(whole).max()
    lengths = np.array([1, 2, 4], np.int32)
    with exactly(model.dtype):
        decoder, blocks = model.decoder, model.decoder.unstacked()
        memory_bsd = jax.jit(type(model).encode)(model, source, mask)
        cross = cache.remember(decoder, memory_bsd, jnp.asarray(mask))
        logits, kept = PREFILL(decoder, blocks, targets[:, :4], lengths, 17, cross)
        for _ in range(13):
            expected = whole[np.arange(3), lengths - 1]
            np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-12 * scale)
            newest = targets[np.arange(3), lengths]
            logits, kept = DECODE(decoder, blocks, kept, newest, lengths, cross)
            lengths = lengths + 1  # in place, it could change before decode has read it


def padded_sources() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sources of three lengths with their mask, and targets that fill the decoder's context."""
    rng = np.random.default_rng(2)
    mask = np.arange(13) < np.array([[13], [5], [1]])
    source = rng.integers(61, size=(3, 13)).astype(np.int32)
    return source, mask, rng.integers(PRIMES["vocab_size"], size=(3, 17)).astype(np.int32)

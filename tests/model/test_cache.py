"""Decoding one position at a time gives what the whole model computes."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.model import cache, exactly
from jaxgpt.model.attention import keep_nothing
from jaxgpt.model.attention_forms import plain
from jaxgpt.model.extend import Text, extend
from tests.helpers import CONFIGS, PRIMES, random_model, random_pair


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
        blocks, prefill, decode = (
            model.unstacked(),
            jax.jit(cache.prefill, static_argnums=4),
            jax.jit(cache.decode),
        )
        logits, kept = prefill(model, blocks, tokens[:, :7], lengths, context)
        np.testing.assert_allclose(
            logits, whole[[0, 1], lengths - 1], rtol=0, atol=tolerance * scale
        )
        for _ in range(context - 7):
            logits, kept = decode(model, blocks, kept, tokens[[0, 1], lengths], lengths)
            np.testing.assert_allclose(
                logits, whole[[0, 1], lengths], rtol=0, atol=tolerance * scale
            )
            lengths += 1
        logits, _ = prefill(model, blocks, tokens, lengths, context)
        np.testing.assert_allclose(
            logits, whole[[0, 1], lengths - 1], rtol=0, atol=tolerance * scale
        )


POSITIONS = {"learned": 11, "sinusoidal": 11, "rotary": 6, "alibi": 6, "none": 6}
QK_NORMS = ["none", "before_rotary", "after_rotary", "full_width"]
# A window in one layer and none in the next, with every pair of positions, heads of keys and norm;
# the same window in both for some.
KINDS = [
    *(
        (positions, (6, 2, 1)[(i + j) % 3], [4, None], norm)
        for i, positions in enumerate(POSITIONS)
        for j, norm in enumerate(QK_NORMS)
    ),
    *itertools.product(["learned", "rotary"], [2], [None, 4], ["none"]),
]


@pytest.mark.parametrize(("positions", "groups", "window", "qk_norm"), KINDS)
def test_every_kind_of_attention_is_cached(
    positions: str, groups: int, window: Any, qk_norm: str
) -> None:
    """Without jit, so that cases share compiled operations; past the trained context where possible."""
    model = random_model(
        positions=positions, num_kv_heads=groups, window=window, qk_norm=qk_norm,
        context_length=POSITIONS[positions], num_heads=6, head_dim=4, model_dim=8, num_blocks=2,
    )  # fmt: skip
    tokens = np.random.default_rng(1).integers(0, PRIMES["vocab_size"], (2, 11)).astype(np.int32)
    lengths = np.array([3, 6], np.int32)
    with exactly(model.dtype):
        blocks, x = model.unstacked(), model.embed(jnp.asarray(tokens))
        for layer, block in enumerate(blocks):
            x, _ = block(x, layer, jnp.arange(11), keep_nothing(plain))
        whole = np.asarray(model.read_out(x))
        logits, kept = cache.prefill(model, blocks, tokens[:, :7], lengths, 11)
        stored = sum(leaf.size for leaf in jax.tree.leaves(kept))
        longer = dataclasses.replace(model.config, context_length=11)
        assert stored == 2 * cache.elements(longer)  # for two rows
        slots = [min(each or 11, 11) for each in model.config.by_layer("window")]
        assert [each.shape for each in kept.keys_bmsh] == [(2, groups, n, 4) for n in slots]
        assert [each.shape for each in kept.values_bmsh] == [(2, groups, n, 4) for n in slots]
        for _ in range(5):
            np.testing.assert_allclose(logits, whole[[0, 1], lengths - 1], rtol=0, atol=1e-12)
            logits, kept = cache.decode(model, blocks, kept, tokens[[0, 1], lengths], lengths)
            lengths += 1
        np.testing.assert_allclose(logits, whole[[0, 1], lengths - 1], rtol=0, atol=1e-12)


WINDOWS = {
    f"{positions}, window {window}": {
        "positions": positions,
        "window": window,
        "num_blocks": 2,
        "num_heads": 2,
        "head_dim": 6,
    }
    for positions, windows in {
        "learned": [4, [None, 5]],
        "rotary": [3, 4, 9, [4, None], [None, 5]],
        "alibi": [3, [4, None]],
    }.items()
    for window in windows
}


@pytest.mark.parametrize("fields", [*CONFIGS.values(), *WINDOWS.values()], ids=[*CONFIGS, *WINDOWS])
def test_reading_prompts_in_pieces_equals_reading_them_at_once(fields: Any) -> None:
    """Rows end in different pieces, one before any; padding reaches past the context."""
    model, context = random_model(**fields), PRIMES["context_length"]
    draw = np.random.default_rng(1).integers
    tokens = draw(0, PRIMES["vocab_size"], (4, context)).astype(np.int32)
    whole, rows = np.asarray(model(tokens)), np.arange(4)
    lengths = np.array([0, 3, 7, context - 1], np.int32)
    with exactly(model.dtype):
        blocks, read_on = model.unstacked(), jax.jit(extend)
        _, kept = jax.jit(cache.read, static_argnums=4)(
            model, blocks, tokens[:, :2], lengths, context
        )
        for start in range(2, context - 1, 5):
            piece = np.pad(tokens, ((0, 0), (0, 5)))[:, start : start + 5]
            kept = read_on(model, blocks, kept, Text(piece, np.int32(start), lengths))
        for _ in range(2):
            logits, kept = jax.jit(cache.decode)(
                model, blocks, kept, tokens[rows, lengths], lengths
            )
            expected = whole[rows, lengths]
            np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-12 * np.abs(whole).max())
            lengths = np.minimum(lengths + 1, context - 1)


@pytest.mark.parametrize(
    "fields",
    [fields for fields in CONFIGS.values() if fields.get("residual", "sequential") == "sequential"],
    ids=[
        name
        for name, fields in CONFIGS.items()
        if fields.get("residual", "sequential") == "sequential"
    ],
)
def test_a_pair_is_cached_with_the_keys_and_values_of_padded_sources(fields: Any) -> None:
    """Cached decoding is the model on the whole target, at every position."""
    model = random_pair("float64", **fields)
    source, mask, targets = padded_sources()
    whole = np.asarray(model(source, targets, mask))
    scale = np.abs(whole).max()
    lengths = np.array([1, 2, 4], np.int32)
    with exactly(model.dtype):
        decoder, blocks = model.decoder, model.decoder.unstacked()
        memory_bsd = jax.jit(type(model).encode)(model, source, mask)
        cross = cache.remember(decoder, memory_bsd, jnp.asarray(mask))
        prefill, decode = jax.jit(cache.prefill, static_argnums=4), jax.jit(cache.decode)
        logits, kept = prefill(decoder, blocks, targets[:, :4], lengths, 17, cross)
        for _ in range(13):
            expected = whole[np.arange(3), lengths - 1]
            np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-12 * scale)
            newest = targets[np.arange(3), lengths]
            logits, kept = decode(decoder, blocks, kept, newest, lengths, cross)
            lengths = lengths + 1  # in place, it could change before decode has read it


def padded_sources() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sources of three lengths with their mask, and targets that fill the decoder's context."""
    rng = np.random.default_rng(2)
    mask = np.arange(13) < np.array([[13], [5], [1]])
    source = rng.integers(61, size=(3, 13)).astype(np.int32)
    return source, mask, rng.integers(PRIMES["vocab_size"], size=(3, 17)).astype(np.int32)

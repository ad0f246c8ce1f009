"""Inference with cached keys and values: prefill of the prompts, then one position at a time.

Shapes: L layers, B rows, T and S positions, M heads of keys and values, H head width.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgpt.model.attention_forms import Scale, attend_cached, chunked
from jaxgpt.model.block import Block
from jaxgpt.model.gpt import GPT
from jaxgpt.model.spec import Scores

KeysValues = tuple[jax.Array, jax.Array]


class Cache(NamedTuple):
    """Keys and values, one array for each layer: a stacked array would be copied at each step."""

    keys_bmsh: tuple[jax.Array, ...]
    values_bmsh: tuple[jax.Array, ...]


def prefill(
    model: GPT, blocks: tuple[Block, ...], tokens_bt: jax.Array, lengths_b: jax.Array
) -> tuple[jax.Array, Cache]:
    """Logits (B, V) after the last token of each row, and the cache of all its positions.

    Padding is on the right of each row and is never attended to. Only the last position of each row
    passes through the last block.
    """
    x_btd, cached = model.embed(tokens_bt), []
    positions = jnp.arange(tokens_bt.shape[1])
    for layer, block in enumerate(blocks[:-1]):
        x_btd, keys_values = block(x_btd, layer, positions, _attend_and_keep)
        cached.append(_cached(keys_values, model.config.context_length))
    last_block, last_b1 = blocks[-1], lengths_b[:, None] - 1
    keys_values = last_block.keys_values(x_btd, len(blocks) - 1, positions)
    cached.append(_cached(keys_values, model.config.context_length))
    attend = functools.partial(_attend_one, cached=cached[-1], positions_b=lengths_b - 1)
    last_b1d = jnp.take_along_axis(x_btd, last_b1[..., None], axis=1)
    x_b1d, _ = last_block(last_b1d, len(blocks) - 1, last_b1, attend)
    return model.read_out(x_b1d)[:, 0], Cache(*zip(*cached, strict=True))


def decode(
    model: GPT,
    blocks: tuple[Block, ...],
    cache: Cache,
    tokens_b: jax.Array,
    positions_b: jax.Array,
) -> tuple[jax.Array, Cache]:
    """Logits (B, V) after one more token in each row, at its own position, and the new cache."""
    x_b1d, cached = model.embed(tokens_b[:, None], positions_b[:, None]), []
    for layer, (block, keys_values) in enumerate(
        zip(blocks, zip(*cache, strict=True), strict=True)
    ):
        attend = functools.partial(_attend_and_write, cached=keys_values, positions_b=positions_b)
        x_b1d, written = block(x_b1d, layer, positions_b[:, None], attend)
        cached.append(written)
    return model.read_out(x_b1d)[:, 0], Cache(*zip(*cached, strict=True))


def _attend_and_keep(
    q_btmgh: jax.Array, k_btmh: jax.Array, v_btmh: jax.Array, scale: Scale, scores: Scores
) -> tuple[jax.Array, KeysValues]:
    return chunked(q_btmgh, k_btmh, v_btmh, scale, scores), (k_btmh, v_btmh)


def _attend_one(
    *parts: Any, cached: KeysValues, positions_b: jax.Array
) -> tuple[jax.Array, KeysValues]:
    """Attend with one query in each row to earlier positions; also return its own key and value."""
    q_b1mgh, k_b1mh, v_b1mh, scale, scores = parts
    own = k_b1mh[:, 0], v_b1mh[:, 0]
    distance_bs = positions_b[:, None] - jnp.arange(cached[0].shape[2])
    mixed_bmgh = attend_cached(q_b1mgh[:, 0], own, cached, distance_bs, scale, scores)
    return mixed_bmgh[:, None], own


def _attend_and_write(
    *parts: Any, cached: KeysValues, positions_b: jax.Array
) -> tuple[jax.Array, KeysValues]:
    """Attend as `_attend_one` does; also return the cache with the new key and value written."""
    mixed_b1mgh, own = _attend_one(*parts, cached=cached, positions_b=positions_b)
    rows = jnp.arange(len(positions_b))

    def write(old_bmsh: jax.Array, new_bmh: jax.Array) -> jax.Array:
        # Adding 0 * mixed makes the write depend on the read; otherwise XLA copies the whole cache.
        new_bmh = new_bmh + 0 * mixed_b1mgh[:, 0, :, 0]
        return old_bmsh.at[rows, :, positions_b].set(new_bmh, mode="promise_in_bounds")

    return mixed_b1mgh, (write(cached[0], own[0]), write(cached[1], own[1]))


def _cached(keys_values: KeysValues, length: int) -> KeysValues:
    """Keys and values (B, T, M, H) as (B, M, S, H), padded to `length` positions."""
    keys, values = (
        jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, length - x.shape[1]), (0, 0)))
        for x in keys_values
    )
    return keys, values

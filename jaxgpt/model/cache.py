"""Inference with cached keys and values: prefill of the prompts, then one position at a time.

Shapes: L layers, B rows, T and S positions, M heads of keys and values, H head width.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgpt.model.block import Block
from jaxgpt.model.forms import Scale, attend_cached, chunked
from jaxgpt.model.gpt import GPT

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
    for layer, block in enumerate(blocks[:-1]):
        x_btd, keys_values = block(x_btd, layer, _attend_and_keep)
        cached.append(_cached(keys_values, model.config.context_length))
    last_block = blocks[-1]
    cached.append(_cached(last_block.keys_values(x_btd), model.config.context_length))
    attend = functools.partial(_attend_one, cached=cached[-1], positions_b=lengths_b - 1)
    last_b1d = jnp.take_along_axis(x_btd, lengths_b[:, None, None] - 1, axis=1)
    x_b1d, _ = last_block(last_b1d, len(blocks) - 1, attend)
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
        x_b1d, written = block(x_b1d, layer, attend)
        cached.append(written)
    return model.read_out(x_b1d)[:, 0], Cache(*zip(*cached, strict=True))


def _attend_and_keep(
    q_btnh: jax.Array, k_btmh: jax.Array, v_btmh: jax.Array, scale: Scale
) -> tuple[jax.Array, KeysValues]:
    return chunked(q_btnh, k_btmh, v_btmh, scale), (k_btmh, v_btmh)


def _attend_one(
    q_b1nh: jax.Array,
    k_b1mh: jax.Array,
    v_b1mh: jax.Array,
    scale: Scale,
    *,
    cached: KeysValues,
    positions_b: jax.Array,
) -> tuple[jax.Array, KeysValues]:
    """Attend with one query in each row to earlier positions; also return its own key and value."""
    own = k_b1mh[:, 0], v_b1mh[:, 0]
    mixed_bnh = attend_cached(q_b1nh[:, 0], own, *cached, positions_b, scale)
    return mixed_bnh[:, None], own


def _attend_and_write(
    *parts: jax.Array, cached: KeysValues, positions_b: jax.Array
) -> tuple[jax.Array, KeysValues]:
    """Attend as `_attend_one` does; also return the cache with the new key and value written."""
    mixed_b1nh, own = _attend_one(*parts, cached=cached, positions_b=positions_b)
    rows = jnp.arange(len(positions_b))

    def write(old_bmsh: jax.Array, new_bmh: jax.Array) -> jax.Array:
        # Adding 0 * mixed makes the write depend on the read; otherwise XLA copies the whole cache.
        new_bmh = new_bmh + 0 * mixed_b1nh[:, 0]
        return old_bmsh.at[rows, :, positions_b].set(new_bmh, mode="promise_in_bounds")

    return mixed_b1nh, (write(cached[0], own[0]), write(cached[1], own[1]))


def _cached(keys_values: KeysValues, length: int) -> KeysValues:
    """Keys and values (B, T, M, H) as (B, M, S, H), padded to `length` positions."""
    keys, values = (
        jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, length - x.shape[1]), (0, 0)))
        for x in keys_values
    )
    return keys, values

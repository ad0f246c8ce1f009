"""Reads prompts into a cache, piece by piece.

Shapes: B rows, T positions, S slots, M heads of keys and values, G queries for each, H head width.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgpt.model.attention_forms import scattered
from jaxgpt.model.block import Block
from jaxgpt.model.cache import Cache, CrossCache, KeysValues, by_layer, positions_of
from jaxgpt.model.gpt import GPT


class Text(NamedTuple):
    """Consecutive tokens of each row, to be read into a cache."""

    tokens_bt: jax.Array
    start: jax.Array  # the position of the first of them
    lengths_b: jax.Array  # number of tokens in the row; padding follows


def extend(
    model: GPT,
    blocks: tuple[Block, ...],
    cache: Cache,
    text: Text,
    cross: CrossCache | None = None,
) -> Cache:
    """The `cache`, extended by the tokens of `text` in each row."""
    tokens_bt, start, lengths_b = text
    # Padding gets the position at the end of its row, which exists in every model.
    positions_bt = start + jnp.arange(tokens_bt.shape[1])
    positions_bt = jnp.minimum(positions_bt, lengths_b[:, None] - 1)
    x_btd, cached = model.embed(tokens_bt, positions_bt), []
    layers = zip(blocks, zip(*cache, strict=True), by_layer(cross, len(blocks)), strict=True)
    for layer, (block, old, memory) in enumerate(layers):
        if block is blocks[-1]:
            own = block.keys_values(x_btd, layer, positions_bt)
        else:
            attend = functools.partial(_attend_to_both, cached=old, text=text)
            x_btd, kept = block(x_btd, layer, positions_bt, attend, memory=memory)
            own = kept.own
        cached.append(_extended(old, own, text))
    return Cache(*zip(*cached, strict=True))


def _attend_to_both(*parts: Any, cached: KeysValues, text: Text) -> tuple[jax.Array, KeysValues]:
    """Attend to the cached positions and to those of `text`; also return its keys and values."""
    q_btmgh, k_btmh, v_btmh, scale, scores = parts
    rows, time = q_btmgh.shape[:2]
    newest_b = jnp.minimum(text.start, text.lengths_b) - 1
    cached_bs = positions_of(newest_b, cached[0].shape[2])
    own_bt = jnp.broadcast_to(text.start + jnp.arange(time), (rows, time))
    distance_bts = own_bt[..., None] - jnp.concatenate([cached_bs, own_bt], axis=1)[:, None]
    hidden_bs = jnp.concatenate([cached_bs < 0, jnp.zeros((rows, time), bool)], axis=1)
    distance_bts = jnp.where(hidden_bs[:, None], -1, distance_bts)
    keys, values = (
        jnp.concatenate([old.swapaxes(1, 2), own], axis=1)
        for old, own in zip(cached, (k_btmh, v_btmh), strict=True)
    )
    return scattered(q_btmgh, keys, values, distance_bts, scale, scores), (k_btmh, v_btmh)


def _extended(cached: KeysValues, own: KeysValues, text: Text) -> KeysValues:
    """The cache of a layer with the keys and values of `text` in their slots."""
    time = own[0].shape[1]
    newest_b = jnp.minimum(text.lengths_b, text.start + time) - 1

    def stored(old_bmsh: jax.Array, own_btmh: jax.Array) -> jax.Array:
        columns_bs = positions_of(newest_b, old_bmsh.shape[2]) - text.start
        among_b1s1 = columns_bs[:, None, :, None]
        own_bmsh = jnp.take_along_axis(
            own_btmh.swapaxes(1, 2), jnp.maximum(among_b1s1, 0), axis=2, mode="clip"
        )
        return jnp.where(among_b1s1 >= 0, own_bmsh, old_bmsh)

    return stored(cached[0], own[0]), stored(cached[1], own[1])

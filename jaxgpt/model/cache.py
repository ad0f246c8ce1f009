"""Inference with cached keys and values: prefill of the prompts, then one position at a time.

A layer with a window keeps a ring: position p is in slot p % window, where it replaces the one that
has left the window. Other layers have a slot for each position.

Shapes: B rows, T positions, S slots, M heads of keys and values, H head width.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgpt.model.attention import Memory
from jaxgpt.model.attention_forms import Scale, attend_cached, chunked
from jaxgpt.model.block import Block
from jaxgpt.model.gpt import GPT
from jaxgpt.model.spec import Scores, make_spec
from jaxgpt.model_config import ModelConfig

KeysValues = tuple[jax.Array, jax.Array]


class Cache(NamedTuple):
    """Keys and values, one array for each layer: a stacked array would be copied at each step.

    Layers differ in their number of slots S.
    """

    keys_bmsh: tuple[jax.Array, ...]
    values_bmsh: tuple[jax.Array, ...]


class CrossCache(NamedTuple):
    """Keys and values of a memory for the cross-attention of each layer, computed once.

    They have the axes of a Cache: in those of a Memory each step would transpose them.
    """

    keys_bmsh: tuple[jax.Array, ...]
    values_bmsh: tuple[jax.Array, ...]
    mask_bs: jax.Array

    def memory(self, layer: int) -> Memory:
        """The memory of `layer`."""
        keys_bmsh, values_bmsh = self.keys_bmsh[layer], self.values_bmsh[layer]
        return Memory(keys_bmsh.swapaxes(1, 2), values_bmsh.swapaxes(1, 2), self.mask_bs)


def prefill(
    model: GPT,
    blocks: tuple[Block, ...],
    tokens_bt: jax.Array,
    lengths_b: jax.Array,
    context: int,
    cross: CrossCache | None = None,
) -> tuple[jax.Array, Cache]:
    """Logits (B, V) after the last token of each row, and a cache for `context` positions.

    Padding is on the right of each row and is never attended to. Only the last position of each row
    passes through the last block.
    """
    x_btd, cache = read(model, blocks, tokens_bt, lengths_b, context, cross)
    last_b1 = lengths_b[:, None] - 1
    attend = functools.partial(
        _attend_one, cached=(cache.keys_bmsh[-1], cache.values_bmsh[-1]), positions_b=lengths_b - 1
    )
    last_b1d = jnp.take_along_axis(x_btd, last_b1[..., None], axis=1)
    memory = by_layer(cross, len(blocks))[-1]
    x_b1d, _ = blocks[-1](last_b1d, len(blocks) - 1, last_b1, attend, memory=memory)
    return model.read_out(x_b1d)[:, 0], cache


def empty(model: GPT, rows: int, context: int, dtype: jnp.dtype) -> Cache:
    """An empty cache for `context` positions of `rows` texts."""
    attention = model.spec.block.attention
    heads, width = attention.kv_heads, attention.width
    shapes = [(rows, heads, slots_of(each, context), width) for each in attention.scores]
    return Cache(*(tuple(jnp.zeros(shape, dtype) for shape in shapes) for _ in range(2)))


def read(
    model: GPT,
    blocks: tuple[Block, ...],
    tokens_bt: jax.Array,
    lengths_b: jax.Array,
    context: int,
    cross: CrossCache | None = None,
) -> tuple[jax.Array, Cache]:
    """The stream before the last block, and a cache with the first `lengths_b` tokens of each row.

    The cache is for `context` positions.
    """
    x_btd, cached = model.embed(tokens_bt), []
    memories = by_layer(cross, len(blocks))
    positions = jnp.arange(tokens_bt.shape[1])
    slots = [slots_of(scores, context) for scores in model.spec.block.attention.scores]
    for layer, block in enumerate(blocks[:-1]):
        x_btd, kept = block(x_btd, layer, positions, _attend_and_keep, memory=memories[layer])
        cached.append(_cached(kept.own, lengths_b, slots[layer]))
    keys_values = blocks[-1].keys_values(x_btd, len(blocks) - 1, positions)
    cached.append(_cached(keys_values, lengths_b, slots[-1]))
    return x_btd, Cache(*zip(*cached, strict=True))


def decode(
    model: GPT,
    blocks: tuple[Block, ...],
    cache: Cache,
    tokens_b: jax.Array,
    positions_b: jax.Array,
    cross: CrossCache | None = None,
) -> tuple[jax.Array, Cache]:
    """Logits (B, V) after one more token in each row, at its own position, and the new cache."""
    x_b1d, cached = model.embed(tokens_b[:, None], positions_b[:, None]), []
    layers = zip(blocks, zip(*cache, strict=True), by_layer(cross, len(blocks)), strict=True)
    for layer, (block, keys_values, memory) in enumerate(layers):
        attend = functools.partial(_attend_and_write, cached=keys_values, positions_b=positions_b)
        x_b1d, written = block(x_b1d, layer, positions_b[:, None], attend, memory=memory)
        cached.append(written.own)
    return model.read_out(x_b1d)[:, 0], Cache(*zip(*cached, strict=True))


def remember(model: GPT, memory_bsd: jax.Array, mask_bs: jax.Array) -> CrossCache:
    """The cross-attention cache of `model` for `memory_bsd`."""
    stacked = model.memory(memory_bsd, mask_bs)
    keys, values = (tuple(x.swapaxes(2, 3)) for x in (stacked.keys_bsmh, stacked.values_bsmh))
    return CrossCache(keys, values, mask_bs)


def slots_of(scores: Scores, context: int) -> int:
    """The number of positions that a layer with `scores` caches, for a context of `context`."""
    return min(scores.window or context, context)


def elements(config: ModelConfig) -> int:
    """The number of elements in the cache of one text that fills the context."""
    all_scores = make_spec(config).block.attention.scores
    slots = sum(slots_of(scores, config.context_length) for scores in all_scores)
    return 2 * slots * config.num_kv_heads * config.head_dim


def by_layer(cross: CrossCache | None, layers: int) -> list[Memory | None]:
    return [cross and cross.memory(layer) for layer in range(layers)]


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
    distance_bs = _distances(positions_b, cached[0].shape[2])
    mixed_bmgh = attend_cached(q_b1mgh[:, 0], own, cached, distance_bs, scale, scores)
    return mixed_bmgh[:, None], own


def _attend_and_write(
    *parts: Any, cached: KeysValues, positions_b: jax.Array
) -> tuple[jax.Array, KeysValues]:
    """Attend as `_attend_one` does; also return the cache with the new key and value written."""
    mixed_b1mgh, own = _attend_one(*parts, cached=cached, positions_b=positions_b)
    rows, slots_b = jnp.arange(len(positions_b)), positions_b % cached[0].shape[2]

    def write(old_bmsh: jax.Array, new_bmh: jax.Array) -> jax.Array:
        # Adding 0 * mixed makes the write depend on the read; otherwise XLA copies the whole cache.
        new_bmh = new_bmh + 0 * mixed_b1mgh[:, 0, :, 0]
        return old_bmsh.at[rows, :, slots_b].set(new_bmh, mode="promise_in_bounds")

    return mixed_b1mgh, (write(cached[0], own[0]), write(cached[1], own[1]))


def positions_of(newest_b: jax.Array, slots: int) -> jax.Array:
    """The newest position (B, S) of each slot, up to `newest_b`; negative in slots without one."""
    newest_b1 = newest_b[:, None]
    return newest_b1 - (newest_b1 - jnp.arange(slots)) % slots


def _distances(positions_b: jax.Array, slots: int) -> jax.Array:
    """How far (B, S) each slot's position lies before that of the row; 0 in slots without one."""
    distance_bs = (positions_b[:, None] - jnp.arange(slots)) % slots
    return jnp.where(distance_bs <= positions_b[:, None], distance_bs, 0)


def _cached(keys_values: KeysValues, lengths_b: jax.Array, slots: int) -> KeysValues:
    """The last keys and values (B, T, M, H) of each row in their slots (B, M, S, H)."""

    def stored(x_btmh: jax.Array) -> jax.Array:
        time = x_btmh.shape[1]
        if time <= slots:
            return jnp.pad(x_btmh.swapaxes(1, 2), ((0, 0), (0, 0), (0, slots - time), (0, 0)))
        positions_bs = jnp.maximum(positions_of(lengths_b - 1, slots), 0)
        return jnp.take_along_axis(x_btmh, positions_bs[..., None, None], axis=1).swapaxes(1, 2)

    return stored(keys_values[0]), stored(keys_values[1])

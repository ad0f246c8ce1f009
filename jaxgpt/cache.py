"""The model one position at a time: keys and values of what came before are kept. Knows no sampling.

Shapes: L layers, B rows, S positions of the context, N heads, H head width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgpt.attention import attend_cached, chunked
from jaxgpt.block import Block
from jaxgpt.model import GPT


class Cache(NamedTuple):
    """Of each layer on its own: a stacked one would be copied at each step."""

    keys_bnsh: tuple[jax.Array, ...]
    values_bnsh: tuple[jax.Array, ...]


def prefill(
    model: GPT, blocks: tuple[Block, ...], tokens_bt: jax.Array, lengths_b: jax.Array
) -> tuple[jax.Array, Cache]:
    """Logits (B, V) after each row's last token, for which of the last block only that position is needed; what pads a
    row to T comes after its length and is never looked at."""
    kept: list[tuple[jax.Array, jax.Array]] = []
    padding = model.config.context_length - tokens_bt.shape[1]

    def last(x_bt: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x_bt, lengths_b.reshape(-1, *[1] * (x_bt.ndim - 1)) - 1, axis=1)

    def keeping(q: jax.Array, k: jax.Array, v: jax.Array, scale: jax.Array) -> jax.Array:
        keys, values = (jnp.pad(part.swapaxes(1, 2), ((0, 0), (0, 0), (0, padding), (0, 0))) for part in (k, v))
        kept.append((keys, values))
        if len(kept) < len(blocks):
            return chunked(q, k, v, scale)
        own = last(k)[:, 0], last(v)[:, 0]
        return attend_cached(q[:, 0], own, keys, values, lengths_b - 1, scale)[:, None]

    x = model.embed(tokens_bt)
    for layer, block in enumerate(blocks[:-1]):
        x = block(x, layer, None, keeping)
    x = blocks[-1](x, len(blocks) - 1, None, keeping, last)
    return model.read_out(x)[:, 0], Cache(*zip(*kept, strict=True))


def unstack(model: GPT) -> tuple[Block, ...]:
    """Blocks one by one: taking them out of the stack at each position would copy all weights."""

    def block(i: int) -> Block:
        alone = jax.tree.map(lambda leaf: leaf[i], model.blocks)
        alone.attn.join()
        return alone

    return tuple(map(block, range(model.config.num_blocks)))


def decode(
    model: GPT, blocks: tuple[Block, ...], cache: Cache, tokens_b: jax.Array, positions_b: jax.Array
) -> tuple[jax.Array, Cache]:
    """Logits (B, V) after one more token in each row, at its own position."""
    rows = jnp.arange(len(tokens_b))
    x = model.embed(tokens_b[:, None], positions_b[:, None])
    seen = [*zip(*cache, strict=True)]
    for layer, block in enumerate(blocks):

        def remembering(q: jax.Array, k: jax.Array, v: jax.Array, scale: jax.Array, layer: int = layer) -> jax.Array:
            own = k[:, 0], v[:, 0]
            mixture = attend_cached(q[:, 0], own, *seen[layer], positions_b, scale)
            # What is written waits for what is read, by name: else XLA copies the whole cache first, to be safe.
            keys, values = (
                old.at[rows, :, positions_b].set(new + 0 * mixture, mode="promise_in_bounds")
                for old, new in zip(seen[layer], own, strict=True)
            )
            seen[layer] = keys, values
            return mixture[:, None]

        x = block(x, layer, None, remembering)
    return model.read_out(x)[:, 0], Cache(*zip(*seen, strict=True))

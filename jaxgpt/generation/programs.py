"""Compiled programs that generate several tokens in one call.

Up to the context length, keys and values are cached. Past it the model sees a window of the last
`context_length` tokens, and positions count from 0 in each window, as in the torch original: the
cache is then invalid, and every token needs a prefill of its own window. The next few windows are
complete but for their last few tokens, so several devices prefill one each at the same time.

CPU devices that share memory are sharded over the rows; where there are more devices than rows,
the devices of a group (peers) compute future windows.

Shapes: B rows, S context length, V vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxgpt.devices.sharding import BY_GROUP, SAME, Of, with_peers
from jaxgpt.generation.sampling import Sampling, choose
from jaxgpt.model import GPT, cache
from jaxgpt.model.block import Block
from jaxgpt.model.cache import Cache

PIECE = 32  # the most tokens in one piece
NOTHING = -1  # stands for an id after the end of a row


class Written(NamedTuple):
    """The texts generated so far."""

    tokens_bs: jax.Array  # the last S tokens of each row
    lengths_b: jax.Array  # number of valid tokens in `tokens_bs`
    new: jax.Array  # number of tokens generated
    keys_b: jax.Array  # random keys


Buffers = tuple[jax.Array, jax.Array]  # ids and log-probabilities (B, PIECE)

# The sharding of the texts and of the cache when rows are sharded.
WRITTEN: Any = Written._make((BY_GROUP, BY_GROUP, SAME, BY_GROUP))
KEPT: Any = Cache._make((BY_GROUP, BY_GROUP))


@functools.partial(jax.jit, static_argnums=(4, 7))
def first(
    model: GPT,
    blocks: tuple[Block, ...],
    tokens_bs: jax.Array,
    lengths_b: jax.Array,
    width: int,
    seed: jax.Array,
    sampling: Sampling,
    mesh: Mesh | None,
) -> tuple[Written, Buffers, Cache]:
    """Prefill the first `width` positions of the prompts, and choose the first new token."""
    keys_b = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
        jax.random.key(seed), jnp.arange(len(tokens_bs))
    )
    written = Written(tokens_bs, lengths_b, jnp.int32(0), keys_b)

    def program(
        index: ArrayLike,
        value_of: Of,
        model: GPT,
        blocks: tuple[Block, ...],
        written: Written,
        sampling: Sampling,
    ) -> tuple[Written, Buffers, Cache]:
        logits_bv, kv_cache = cache.prefill(
            model, blocks, written.tokens_bs[:, :width], written.lengths_b
        )
        return *_append(written, _empty(model, len(logits_bv)), 0, logits_bv, sampling), kv_cache

    sharded = with_peers(program, mesh, (SAME, SAME, WRITTEN, SAME), (WRITTEN, BY_GROUP, KEPT))
    return sharded(model, blocks, written, sampling)


@functools.partial(jax.jit, static_argnums=6, donate_argnums=(2, 3))
def cached(
    model: GPT,
    blocks: tuple[Block, ...],
    written: Written,
    kept: Cache,
    sampling: Sampling,
    n: jax.Array,
    mesh: Mesh | None,
) -> tuple[Written, Buffers, Cache]:
    """Generate `n` tokens with the cache `kept`; no row may be longer than the context yet."""

    def program(
        index: ArrayLike,
        value_of: Of,
        model: GPT,
        blocks: tuple[Block, ...],
        written: Written,
        kv_cache: Cache,
        sampling: Sampling,
        n: jax.Array,
    ) -> tuple[Written, Buffers, Cache]:
        def one(
            i: jax.Array, carry: tuple[Written, Buffers, Cache]
        ) -> tuple[Written, Buffers, Cache]:
            written, buffers, kv_cache = carry
            logits_bv, kv_cache = cache.decode(
                model, blocks, kv_cache, _newest(written), written.lengths_b - 1
            )
            return *_append(written, buffers, i, logits_bv, sampling), kv_cache

        buffers = _empty(model, len(written.tokens_bs))
        return jax.lax.fori_loop(0, n, one, (written, buffers, kv_cache))

    sharded = with_peers(
        program, mesh, (SAME, SAME, WRITTEN, KEPT, SAME, SAME), (WRITTEN, BY_GROUP, KEPT)
    )
    return sharded(model, blocks, written, kept, sampling, n)


@functools.partial(jax.jit, static_argnums=5, donate_argnums=2)
def windowed(
    model: GPT,
    blocks: tuple[Block, ...],
    written: Written,
    sampling: Sampling,
    n: jax.Array,
    mesh: Mesh | None,
) -> tuple[Written, Buffers]:
    """Generate `n` tokens once a row is full.

    Device i of a group prefills the window for token i, which lacks its last i tokens; each chosen
    token is then appended on every device until its window is complete.
    """
    devices = mesh.shape["peers"] if mesh else 1

    def program(
        index: ArrayLike,
        value_of: Of,
        model: GPT,
        blocks: tuple[Block, ...],
        written: Written,
        sampling: Sampling,
        n: jax.Array,
    ) -> tuple[Written, Buffers]:
        rows, context = written.tokens_bs.shape

        def one_round(
            carry: tuple[Written, Buffers, jax.Array],
        ) -> tuple[Written, Buffers, jax.Array]:
            written, buffers, start = carry
            dropped_b = jnp.maximum(0, written.lengths_b + index - context)
            prefix_b = written.lengths_b - dropped_b
            columns_bs = jnp.minimum(jnp.arange(context) + dropped_b[:, None], context - 1)
            tokens_bs = jnp.take_along_axis(written.tokens_bs, columns_bs, axis=1)
            logits_bv, kv_cache = cache.prefill(model, blocks, tokens_bs, prefix_b)
            written, buffers = _append(written, buffers, start, value_of(0, logits_bv), sampling)

            def one(
                i: jax.Array, carry: tuple[Written, Buffers, Cache]
            ) -> tuple[Written, Buffers, Cache]:
                written, buffers, kv_cache = carry
                # A complete window still decodes at its last position; the result is not used.
                positions_b = jnp.minimum(prefix_b + i - 1, context - 1)
                logits_bv, kv_cache = cache.decode(
                    model, blocks, kv_cache, _newest(written), positions_b
                )
                written, buffers = _append(
                    written, buffers, start + i, value_of(i, logits_bv), sampling
                )
                return written, buffers, kv_cache

            stop = jnp.minimum(devices, n - start)
            if devices > 1:
                written, buffers, _ = jax.lax.fori_loop(1, stop, one, (written, buffers, kv_cache))
            return written, buffers, start + stop

        carry = written, _empty(model, rows), jnp.int32(0)
        return jax.lax.while_loop(lambda carry: carry[2] < n, one_round, carry)[:2]

    sharded = with_peers(program, mesh, (SAME, SAME, WRITTEN, SAME, SAME), (WRITTEN, BY_GROUP))
    return sharded(model, blocks, written, sampling, n)


def _newest(written: Written) -> jax.Array:
    return jnp.take_along_axis(written.tokens_bs, written.lengths_b[:, None] - 1, axis=1)[:, 0]


def _append(
    written: Written, buffers: Buffers, i: ArrayLike, logits_bv: jax.Array, sampling: Sampling
) -> tuple[Written, Buffers]:
    """Choose a token for each row; append it to `written`, and set column `i` of `buffers`."""
    tokens_bs, lengths_b, new, keys_b = written
    draws_b = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_b, new)
    chosen = choose(logits_bv, draws_b, sampling)
    ids_b, context = chosen[0], tokens_bs.shape[1]
    full_b = lengths_b == context
    tokens_bs = jnp.where(full_b[:, None], jnp.roll(tokens_bs, -1, axis=1), tokens_bs)
    lengths_b = jnp.minimum(lengths_b + 1, context)
    tokens_bs = tokens_bs.at[jnp.arange(len(ids_b)), lengths_b - 1].set(jnp.maximum(ids_b, 0))
    ids, logp = (
        buffer.at[:, i].set(column) for buffer, column in zip(buffers, chosen, strict=True)
    )
    return Written(tokens_bs, lengths_b, new + 1, keys_b), (ids, logp)


def _empty(model: GPT, rows: int) -> Buffers:
    dtype = jnp.promote_types(model.dtype, jnp.float32)
    return jnp.full((rows, PIECE), NOTHING, jnp.int32), jnp.zeros((rows, PIECE), dtype)

"""One token after the other inside one program. Knows neither what was asked for nor who reads it.

Up to the context length keys and values are kept. Past it the model sees the last `context_length` tokens and positions
start anew, as in the torch original: nothing that was kept is valid then, and each token has a window of its own. Of
the windows that come next all is known but their last few tokens, so several devices work on as many at a time.

Devices that share a memory divide the rows among them; more of them than there are rows work ahead, as said above.

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

PIECE = 32  # most tokens that come at once
NOTHING = -1  # in place of an id, where there is none


class Written(NamedTuple):
    """What there is of the texts."""

    tokens_bs: jax.Array  # the last S of them
    lengths_b: jax.Array  # how many of these
    new: jax.Array  # how many tokens are
    keys_b: jax.Array


Buffers = tuple[jax.Array, jax.Array]  # ids and log-probabilities (B, PIECE)

# How they lie where rows are divided.
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
    """The token after the prompts, of which `width` positions are computed."""
    keys_b = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
        jax.random.key(seed), jnp.arange(len(tokens_bs))
    )
    written = Written(tokens_bs, lengths_b, jnp.int32(0), keys_b)

    def program(
        mine: ArrayLike,
        of: Of,
        model: GPT,
        blocks: tuple[Block, ...],
        written: Written,
        sampling: Sampling,
    ) -> tuple[Written, Buffers, Cache]:
        logits_bv, kept = cache.prefill(
            model, blocks, written.tokens_bs[:, :width], written.lengths_b
        )
        return *_append(written, _empty(model, len(logits_bv)), 0, logits_bv, sampling), kept

    divided = with_peers(program, mesh, (SAME, SAME, WRITTEN, SAME), (WRITTEN, BY_GROUP, KEPT))
    return divided(model, blocks, written, sampling)


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
    """n more tokens, as long as the model sees the whole text."""

    def program(
        mine: ArrayLike,
        of: Of,
        model: GPT,
        blocks: tuple[Block, ...],
        written: Written,
        kept: Cache,
        sampling: Sampling,
        n: jax.Array,
    ) -> tuple[Written, Buffers, Cache]:
        def one(
            i: jax.Array, carry: tuple[Written, Buffers, Cache]
        ) -> tuple[Written, Buffers, Cache]:
            written, buffers, kept = carry
            logits_bv, kept = cache.decode(
                model, blocks, kept, _newest(written), written.lengths_b - 1
            )
            return *_append(written, buffers, i, logits_bv, sampling), kept

        return jax.lax.fori_loop(0, n, one, (written, _empty(model, len(written.tokens_bs)), kept))

    divided = with_peers(
        program, mesh, (SAME, SAME, WRITTEN, KEPT, SAME, SAME), (WRITTEN, BY_GROUP, KEPT)
    )
    return divided(model, blocks, written, kept, sampling, n)


@functools.partial(jax.jit, static_argnums=5, donate_argnums=2)
def windowed(
    model: GPT,
    blocks: tuple[Block, ...],
    written: Written,
    sampling: Sampling,
    n: jax.Array,
    mesh: Mesh | None,
) -> tuple[Written, Buffers]:
    """n more tokens, when a row is full. Each device of a group has the window after that of the one before it,
    computes what is known of it, and then adds each token that is chosen, until it is whole."""
    devices = mesh.shape["peers"] if mesh else 1

    def program(
        mine: ArrayLike,
        of: Of,
        model: GPT,
        blocks: tuple[Block, ...],
        written: Written,
        sampling: Sampling,
        n: jax.Array,
    ) -> tuple[Written, Buffers]:
        rows, context = written.tokens_bs.shape

        def some(carry: tuple[Written, Buffers, jax.Array]) -> tuple[Written, Buffers, jax.Array]:
            written, buffers, start = carry
            gone_b = jnp.maximum(0, written.lengths_b + mine - context)
            known_b = written.lengths_b - gone_b
            which_bs = jnp.minimum(jnp.arange(context) + gone_b[:, None], context - 1)
            tokens_bs = jnp.take_along_axis(written.tokens_bs, which_bs, axis=1)
            logits_bv, kept = cache.prefill(model, blocks, tokens_bs, known_b)
            written, buffers = _append(written, buffers, start, of(0, logits_bv), sampling)

            def one(
                i: jax.Array, carry: tuple[Written, Buffers, Cache]
            ) -> tuple[Written, Buffers, Cache]:
                written, buffers, kept = carry
                places_b = jnp.minimum(
                    known_b + i - 1, context - 1
                )  # nobody asks for what comes after the end
                logits_bv, kept = cache.decode(model, blocks, kept, _newest(written), places_b)
                return *_append(written, buffers, start + i, of(i, logits_bv), sampling), kept

            stop = jnp.minimum(devices, n - start)
            if devices > 1:
                written, buffers, _ = jax.lax.fori_loop(1, stop, one, (written, buffers, kept))
            return written, buffers, start + stop

        carry = written, _empty(model, rows), jnp.int32(0)
        return jax.lax.while_loop(lambda carry: carry[2] < n, some, carry)[:2]

    divided = with_peers(program, mesh, (SAME, SAME, WRITTEN, SAME, SAME), (WRITTEN, BY_GROUP))
    return divided(model, blocks, written, sampling, n)


def _newest(written: Written) -> jax.Array:
    return jnp.take_along_axis(written.tokens_bs, written.lengths_b[:, None] - 1, axis=1)[:, 0]


def _append(
    written: Written, buffers: Buffers, i: ArrayLike, logits_bv: jax.Array, sampling: Sampling
) -> tuple[Written, Buffers]:
    """One more token of each row, to what there is and to the buffers at i."""
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

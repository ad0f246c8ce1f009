"""Compiled programs that generate several tokens in one call.

Up to the context, keys and values are cached. Past it the model sees a window of the last S tokens,
and positions count from 0 in each window, as in the torch reference. The cache is then invalid, and
every token needs a prefill of its own window. All but the last few tokens of the next few windows
are known, so several devices prefill one window each at the same time.

Where there is a `mesh`, it shards the rows over groups of devices; see `jaxgpt.devices.peers`.

Shapes: B rows, S context, V vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxgpt.devices.peers import BY_GROUP, SAME, Peers, on_each_device
from jaxgpt.generation.encoded import Encoded
from jaxgpt.generation.sampling import Sampling, choose
from jaxgpt.generation.weights import Weights
from jaxgpt.model import cache
from jaxgpt.model.cache import Cache, CrossCache
from jaxgpt.model.extend import Text, extend
from jaxgpt.model.precision import sum_dtype

PIECE_TOKENS = 32  # the most in one piece
NOTHING = -1  # stands for an id after the end of a row


class Conditions(NamedTuple):
    """The inputs of the next tokens besides the weights and the text itself."""

    sampling: Sampling
    cross: CrossCache | None = None  # of a model with cross-attention


class Rows(NamedTuple):
    """The texts generated so far."""

    tokens_bs: jax.Array  # the last S tokens of each row
    lengths_b: jax.Array  # number of valid tokens in `tokens_bs`
    new: jax.Array  # number of tokens generated
    keys_b: jax.Array  # random keys


class Buffers(NamedTuple):
    """The new tokens of one call, (B, PIECE_TOKENS); columns after its last token are padding."""

    ids: jax.Array
    logprobs: jax.Array
    keys: jax.Array  # the random key that chooses each token


# How these are sharded over a mesh.
CONDITIONS_SPECS: Any = Conditions(Sampling(*[BY_GROUP] * 4, SAME), BY_GROUP)  # type: ignore
ROWS_SPECS: Any = Rows(BY_GROUP, BY_GROUP, SAME, BY_GROUP)  # type: ignore[arg-type]
CACHE_SPECS: Any = Cache(BY_GROUP, BY_GROUP)  # type: ignore[arg-type]
TEXT_SPECS: Any = Text(BY_GROUP, SAME, BY_GROUP)  # type: ignore[arg-type]


@jax.jit
def start_rows(
    tokens_bs: ArrayLike, lengths_b: ArrayLike, seeds_b: ArrayLike, numbers_b: ArrayLike
) -> Rows:
    """The rows before their first new token; seed and number give each its random key."""
    keys_b = jax.vmap(jax.random.fold_in)(jax.vmap(jax.random.key)(seeds_b), numbers_b)
    return Rows(jnp.asarray(tokens_bs), jnp.asarray(lengths_b), jnp.int32(0), keys_b)


@functools.partial(jax.jit, static_argnums=2)
def remember(weights: Weights, encoded: Encoded, mesh: Mesh | None) -> CrossCache:
    """The keys and values of `encoded` for each layer, computed once for all tokens."""

    def program(weights: Weights, encoded: Encoded) -> CrossCache:
        return cache.remember(weights.modules()[0], *encoded)

    return on_each_device(program, mesh, (SAME, BY_GROUP), BY_GROUP)(weights, encoded)


@functools.partial(jax.jit, static_argnums=(3, 4))
def read(
    weights: Weights, text: Text, cross: CrossCache | None, context: int, mesh: Mesh | None
) -> Cache:
    """A cache for `context` positions with the `text`, which is the beginning of each row."""

    def program(weights: Weights, text: Text, cross: CrossCache | None) -> Cache:
        model, blocks = weights.modules()
        return cache.read(model, blocks, text.tokens_bt, text.lengths_b, context, cross)[1]

    specs = (SAME, TEXT_SPECS, BY_GROUP), CACHE_SPECS
    return on_each_device(program, mesh, *specs)(weights, text, cross)


@functools.partial(jax.jit, static_argnums=4, donate_argnums=1)
def read_on(
    weights: Weights, kv_cache: Cache, text: Text, cross: CrossCache | None, mesh: Mesh | None
) -> Cache:
    """The cache with the `text`, which continues each row."""

    def program(weights: Weights, kv_cache: Cache, text: Text, cross: CrossCache | None) -> Cache:
        return extend(*weights.modules(), kv_cache, text, cross)

    specs = (SAME, CACHE_SPECS, TEXT_SPECS, BY_GROUP), CACHE_SPECS
    return on_each_device(program, mesh, *specs)(weights, kv_cache, text, cross)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def empty(weights: Weights, rows: int, context: int, mesh: Mesh | None) -> Cache:
    """An empty cache for `context` positions of `rows` texts."""

    def program(weights: Weights) -> Cache:
        own = rows // (mesh.shape["groups"] if mesh else 1)
        return cache.empty(weights.modules()[0], own, context, weights.leaves[0].dtype)

    return on_each_device(program, mesh, (SAME,), CACHE_SPECS)(weights)


@functools.partial(jax.jit, static_argnums=(1, 2))
def repeat_rows(kv_cache: Cache, rows: int, mesh: Mesh | None) -> Cache:
    """The cache of a single text as that of `rows` texts that begin with it."""

    def program(kv_cache: Cache) -> Cache:
        own = rows // (mesh.shape["groups"] if mesh else 1)
        return jax.tree.map(lambda x: jnp.repeat(x, own, axis=0), kv_cache)

    return on_each_device(program, mesh, (SAME,), CACHE_SPECS)(kv_cache)


@functools.partial(jax.jit, static_argnums=5, donate_argnums=(1, 2))
def cached_steps(
    weights: Weights,
    rows: Rows,
    kv_cache: Cache,
    conditions: Conditions,
    n: ArrayLike,
    mesh: Mesh | None,
) -> tuple[Rows, Buffers, Cache]:
    """Generate `n` tokens with the cache; no row may be longer than the context yet."""

    def program(
        weights: Weights, rows: Rows, kv_cache: Cache, conditions: Conditions, n: jax.Array
    ) -> tuple[Rows, Buffers, Cache]:
        def step(i: jax.Array, carry: tuple[Rows, Buffers, Cache]) -> tuple[Rows, Buffers, Cache]:
            rows, buffers, kv_cache = carry
            positions_b = rows.lengths_b - 1
            logits_bv, kv_cache = cache.decode(
                *weights.modules(), kv_cache, _newest(rows), positions_b, conditions.cross
            )
            return *_append(rows, buffers, i, logits_bv, conditions.sampling), kv_cache

        return jax.lax.fori_loop(0, n, step, (rows, _empty(weights, rows), kv_cache))

    specs = (
        (SAME, ROWS_SPECS, CACHE_SPECS, CONDITIONS_SPECS, SAME),
        (ROWS_SPECS, BY_GROUP, CACHE_SPECS),
    )
    return on_each_device(program, mesh, *specs)(weights, rows, kv_cache, conditions, n)


@functools.partial(jax.jit, static_argnums=4, donate_argnums=1)
def window_moves(
    weights: Weights, rows: Rows, conditions: Conditions, n: ArrayLike, mesh: Mesh | None
) -> tuple[Rows, Buffers]:
    """Generate `n` tokens, each from a window of its own, once a row is full."""
    program = functools.partial(_windows_of_peer, Peers.of(mesh))
    specs = (SAME, ROWS_SPECS, CONDITIONS_SPECS, SAME), (ROWS_SPECS, BY_GROUP)
    return on_each_device(program, mesh, *specs)(weights, rows, conditions, n)


def _windows_of_peer(
    peers: Peers, weights: Weights, rows: Rows, conditions: Conditions, n: ArrayLike
) -> tuple[Rows, Buffers]:
    """Generate `n` tokens in rounds with a token for each peer.

    Peer i prefills the window for token i of the round, which lacks its last i tokens; each chosen
    token is then appended on every peer until its window is complete.
    """
    context = rows.tokens_bs.shape[1]

    def one_round(carry: tuple[Rows, Buffers, jax.Array]) -> tuple[Rows, Buffers, jax.Array]:
        rows, buffers, done = carry
        tokens_bs, prefix_b = _window_ahead(rows, peers.index())
        logits_bv, kv_cache = cache.prefill(
            *weights.modules(), tokens_bs, prefix_b, context, conditions.cross
        )
        rows, buffers = _append(
            rows, buffers, done, peers.value_of(0, logits_bv), conditions.sampling
        )

        def step(i: jax.Array, carry: tuple[Rows, Buffers, Cache]) -> tuple[Rows, Buffers, Cache]:
            rows, buffers, kv_cache = carry
            # A complete window still decodes at its last position; the result is not used.
            positions_b = jnp.minimum(prefix_b + i - 1, context - 1)
            logits_bv, kv_cache = cache.decode(
                *weights.modules(), kv_cache, _newest(rows), positions_b, conditions.cross
            )
            logits_bv = peers.value_of(i, logits_bv)
            return *_append(rows, buffers, done + i, logits_bv, conditions.sampling), kv_cache

        tokens = jnp.minimum(peers.count, n - done)
        if peers.count > 1:
            rows, buffers, _ = jax.lax.fori_loop(1, tokens, step, (rows, buffers, kv_cache))
        return rows, buffers, done + tokens

    start = rows, _empty(weights, rows), jnp.int32(0)
    return jax.lax.while_loop(lambda carry: carry[2] < n, one_round, start)[:2]


def _window_ahead(rows: Rows, ahead: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """The window (B, S) of the token `ahead` places after the next one, and its known lengths."""
    context = rows.tokens_bs.shape[1]
    dropped_b = jnp.maximum(0, rows.lengths_b + ahead - context)
    columns_bs = jnp.minimum(jnp.arange(context) + dropped_b[:, None], context - 1)
    return jnp.take_along_axis(rows.tokens_bs, columns_bs, axis=1), rows.lengths_b - dropped_b


def _newest(rows: Rows) -> jax.Array:
    """The last token (B,) of each row."""
    return jnp.take_along_axis(rows.tokens_bs, rows.lengths_b[:, None] - 1, axis=1)[:, 0]


def _append(
    rows: Rows, buffers: Buffers, column: ArrayLike, logits_bv: jax.Array, sampling: Sampling
) -> tuple[Rows, Buffers]:
    """Choose a token for each row; append it to `rows`, and set `column` of `buffers`."""
    ids_b, logp_b = choose(logits_bv, buffers.keys[:, column], sampling)
    context = rows.tokens_bs.shape[1]
    full_b1 = rows.lengths_b[:, None] == context
    tokens_bs = jnp.where(full_b1, jnp.roll(rows.tokens_bs, -1, axis=1), rows.tokens_bs)
    lengths_b = jnp.minimum(rows.lengths_b + 1, context)
    tokens_bs = tokens_bs.at[jnp.arange(len(ids_b)), lengths_b - 1].set(jnp.maximum(ids_b, 0))
    return Rows(tokens_bs, lengths_b, rows.new + 1, rows.keys_b), Buffers(
        buffers.ids.at[:, column].set(ids_b),
        buffers.logprobs.at[:, column].set(logp_b),
        buffers.keys,
    )


def _empty(weights: Weights, rows: Rows) -> Buffers:
    shape, dtype = (len(rows.tokens_bs), PIECE_TOKENS), sum_dtype(weights.leaves[0])
    fold_in = jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(None, 0)), in_axes=(0, None))
    keys = fold_in(rows.keys_b, rows.new + jnp.arange(PIECE_TOKENS))
    return Buffers(jnp.full(shape, NOTHING, jnp.int32), jnp.zeros(shape, dtype), keys)

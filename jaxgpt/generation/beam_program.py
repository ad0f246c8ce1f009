"""The compiled program of a beam search.

Shapes: B rows, K beams, R all beams of all rows, S context, N new tokens, C candidates of a beam, V
vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxgpt.devices.peers import BY_GROUP, SAME, on_each_device
from jaxgpt.generation.programs import CONDITIONS_SPECS, Conditions
from jaxgpt.generation.weights import Weights
from jaxgpt.model import cache
from jaxgpt.model.precision import sum_dtype


class Texts(NamedTuple):
    """The prompts, padded, and the most new tokens of each."""

    tokens_bs: ArrayLike
    lengths_b: ArrayLike
    limits_b: ArrayLike


class Rules(NamedTuple):
    """How texts are scored, and which ids end them."""

    length_penalty: ArrayLike
    stops_v: ArrayLike


class Size(NamedTuple):
    """The static sizes of a search."""

    width: int  # positions to prefill
    beams: int
    columns: int  # for new tokens


class Best(NamedTuple):
    """The best text of each row that has ended so far."""

    ids_bn: jax.Array
    lengths_b: jax.Array
    sums_b: jax.Array  # log-probabilities
    scores_b: jax.Array  # -inf where none has ended


class Search(NamedTuple):
    """The state between two tokens."""

    ids_bkn: jax.Array  # the new tokens of each live beam
    sums_bk: jax.Array  # their log-probabilities; -inf where a beam is not live
    free_b: jax.Array  # number of beams that have not ended
    best: Best
    new: jax.Array  # number of new tokens
    finite_b: jax.Array  # whether all logits were finite


@functools.partial(jax.jit, static_argnums=(4, 5))
def run(
    weights: Weights,
    texts: Texts,
    conditions: Conditions,
    rules: Rules,
    size: Size,
    mesh: Mesh | None,
) -> tuple[Best, jax.Array]:
    """Search: the best text of each row, and whether its logits were finite."""
    program = functools.partial(_search_rows, size)
    specs = (SAME, BY_GROUP, CONDITIONS_SPECS, SAME), BY_GROUP
    return on_each_device(program, mesh, *specs)(weights, texts, conditions, rules)


def _search_rows(
    size: Size, weights: Weights, texts: Texts, conditions: Conditions, rules: Rules
) -> tuple[Best, jax.Array]:
    tokens_bs, lengths_b, limits_b = map(jnp.asarray, texts)
    model, blocks = weights.modules()
    prompts_bs, context = tokens_bs[:, : size.width], tokens_bs.shape[1]
    logits_bv, kv_cache = cache.prefill(
        model, blocks, prompts_bs, lengths_b, context, conditions.cross
    )

    def for_beams(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.repeat(leaf, size.beams, axis=0), tree)

    allowed_v = jnp.asarray(conditions.sampling.allowed_v)
    choose = functools.partial(_choose, limits_b=limits_b, rules=rules, allowed_v=allowed_v)
    cross, lengths_r = for_beams((conditions.cross, lengths_b))
    search, _ = choose(_begin(size, logits_bv), for_beams(logits_bv))

    def unfinished(carry: tuple[Search, Any, Any]) -> jax.Array:
        return _can_win(carry[0], limits_b, rules).any()

    def step(carry: tuple[Search, Any, Any]) -> tuple[Search, Any, Any]:
        search, kv_cache, newest_r = carry
        # A row that has ended decodes on at its last position; the result is not used.
        positions_r = jnp.minimum(lengths_r + search.new - 1, context - 1)
        logits_rv, kv_cache = cache.decode(model, blocks, kv_cache, newest_r, positions_r, cross)
        search, parents_bk = choose(search, logits_rv)
        rows_r = (jnp.arange(len(parents_bk))[:, None] * size.beams + parents_bk).reshape(-1)
        kv_cache = jax.tree.map(lambda leaf: leaf[rows_r], kv_cache)
        return search, kv_cache, _newest(search)

    carry = search, for_beams(kv_cache), _newest(search)
    search, *_ = jax.lax.while_loop(unfinished, step, carry)
    return search.best, search.finite_b


def _begin(size: Size, logits_bv: jax.Array) -> Search:
    """The state before the first token, with one live beam in each row."""
    rows, dtype = len(logits_bv), sum_dtype(logits_bv)
    ids_bkn = jnp.zeros((rows, size.beams, size.columns), jnp.int32)
    sums_bk = jnp.full((rows, size.beams), -jnp.inf, dtype).at[:, 0].set(0)
    zeros, never = jnp.zeros(rows, jnp.int32), jnp.full(rows, -jnp.inf, dtype)
    best = Best(ids_bkn[:, 0], zeros, never, never)
    return Search(ids_bkn, sums_bk, zeros + size.beams, best, jnp.int32(0), zeros == 0)


def _newest(search: Search) -> jax.Array:
    """The last token of each beam, with rows and beams in one axis."""
    return search.ids_bkn[:, :, search.new - 1].reshape(-1)


def _can_win(search: Search, limits_b: jax.Array, rules: Rules) -> jax.Array:
    """Whether a live beam (B,) may still get a better score than the best text that has ended.

    Its log-probability can only fall, so the score that it would have at once, or with that
    log-probability at its greatest length, is a bound.
    """
    sums_b = search.sums_bk.max(axis=1)
    bounds = [_score(sums_b, length, rules) for length in (search.new + 1, limits_b)]
    return jnp.maximum(*bounds) > search.best.scores_b


def _score(sums: jax.Array, lengths: jax.Array, rules: Rules) -> jax.Array:
    return sums / jnp.asarray(lengths, sums.dtype) ** jnp.asarray(rules.length_penalty, sums.dtype)


def _choose(
    search: Search, logits_rv: jax.Array, *, limits_b: jax.Array, rules: Rules, allowed_v: jax.Array
) -> tuple[Search, jax.Array]:
    """Continue with the likeliest texts; also return the beam (B, K) that each comes from."""
    rows, beams = search.sums_bk.shape
    logits_bkv = logits_rv.astype(search.sums_bk.dtype).reshape(rows, beams, -1)
    finite_bk = jnp.isfinite(logits_bkv).all(axis=-1) | (search.sums_bk == -jnp.inf)
    total_bk1 = jax.nn.logsumexp(logits_bkv, axis=-1, keepdims=True)
    # At most `beams` of the next texts can continue the same beam.
    few = min(beams, logits_bkv.shape[-1])
    likeliest_bkc, ids_bkc = jax.lax.top_k(jnp.where(allowed_v, logits_bkv, -jnp.inf), few)
    sums_bkc = search.sums_bk[..., None] + (likeliest_bkc - total_bk1)
    sums_bk, places_bk = jax.lax.top_k(sums_bkc.reshape(rows, -1), beams)
    ids_bk = jnp.take_along_axis(ids_bkc.reshape(rows, -1), places_bk, axis=1)
    parents_bk, count = places_bk // few, search.new + 1
    texts_bkn = jnp.take_along_axis(search.ids_bkn, parents_bk[..., None], axis=1)
    texts_bkn = texts_bkn.at[:, :, search.new].set(ids_bk)

    chosen_bk = (jnp.arange(beams) < search.free_b[:, None]) & (sums_bk > -jnp.inf)
    ends_bk = chosen_bk & (jnp.asarray(rules.stops_v)[ids_bk] | (count >= limits_b)[:, None])
    best = _better(search.best, texts_bkn, jnp.where(ends_bk, sums_bk, -jnp.inf), count, rules)
    sums_bk = jnp.where(chosen_bk & ~ends_bk, sums_bk, -jnp.inf)
    free_b = search.free_b - ends_bk.sum(axis=1, dtype=jnp.int32)
    finite_b = search.finite_b & finite_bk.all(axis=1)
    return Search(texts_bkn, sums_bk, free_b, best, count, finite_b), parents_bk


def _better(
    best: Best, texts_bkn: jax.Array, sums_bk: jax.Array, count: jax.Array, rules: Rules
) -> Best:
    """The `best` text or, where its score is better, the likeliest of `texts_bkn`.

    Those have the log-probabilities `sums_bk` and `count` tokens each.
    """
    likeliest_b, rows = sums_bk.argmax(axis=1), jnp.arange(len(sums_bk))
    sums_b = sums_bk[rows, likeliest_b]
    scores_b = _score(sums_b, count, rules)
    new = Best(texts_bkn[rows, likeliest_b], jnp.full_like(best.lengths_b, count), sums_b, scores_b)
    wins_b = scores_b > best.scores_b

    def pick(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(wins_b.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(pick, new, best)

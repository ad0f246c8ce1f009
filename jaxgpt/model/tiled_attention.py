"""Attention by tiles that fit a core's cache, for long contexts on CPUs.

No (T, T) matrix is ever in memory: each tile of scores is used as soon as it is computed, and the
backward pass computes it again. Tiles that the causal mask or a window hides are skipped.

Shapes: B batch, T time, M heads of keys and values, G queries for each, H head width; U = B * M
units, which are computed one after the other; Q and S positions of the queries and keys of a tile.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.model.attention_forms import Scale
from jaxgpt.model.precision import sum_dtype
from jaxgpt.model.spec import Scores

ROWS = KEYS = 128  # of a tile: its scores take 64 KiB in float32
Step = Callable[[Any, jax.Array], tuple[Any, None]]  # (sums so far, starts of a tile) -> new sums


class Tiling(NamedTuple):
    """How the scores of a unit are cut into tiles."""

    length: int
    queries: int  # positions of a tile, each with G rows
    keys: int

    @staticmethod
    def of(length: int, group: int) -> "Tiling":
        """The tiling of `length` positions with `group` queries each."""
        return Tiling(length, 2 ** max(0, (ROWS // group).bit_length() - 1), KEYS)

    @property
    def padding(self) -> int:
        """The number of positions after the last one that make `length` a multiple of a tile."""
        return -self.length % self.keys

    def tiles(self, window: int | None) -> np.ndarray:
        """The first query and the first key (N, 2) of each tile that is not hidden altogether."""
        starts = [
            (query, key)
            for query in range(0, self.length, self.queries)
            for key in range(0, query + self.queries, self.keys)
            if window is None or key + self.keys > query + 1 - window
        ]
        return np.array(starts, np.int32)


class Unit(NamedTuple):
    """Queries, keys and values of one head of one text, and the slope of each query's biases."""

    q_gth: jax.Array
    k_th: jax.Array
    v_th: jax.Array
    slopes_g: jax.Array
    segments_t: jax.Array | None  # of a row with several texts


def tiled(
    q_btmgh: jax.Array,
    k_btmh: jax.Array,
    v_btmh: jax.Array,
    scale: Scale,
    scores: Scores,
    segments_bt: jax.Array | None = None,
) -> jax.Array:
    """Causal attention that computes one tile of scores after the other."""
    batch, length, heads, group, _ = q_btmgh.shape
    tiling = Tiling.of(length, group)

    def by_unit(x: jax.Array) -> jax.Array:
        """`x` (B, T, M, ...) as (U, ..., T, H), padded."""
        x = jnp.moveaxis(x, 1, -2)
        x = x.reshape(-1, *x.shape[2:])
        return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, tiling.padding), (0, 0)])

    slopes = scores.slopes or [0.0] * (heads * group)
    slopes_mg = jnp.asarray(slopes, sum_dtype(q_btmgh)).reshape(heads, group)
    scaled_btmgh = q_btmgh * jnp.asarray(scale, q_btmgh.dtype)
    slopes_ug, segments_ut = jnp.tile(slopes_mg, (batch, 1)), None
    if segments_bt is not None:
        padded_bt = jnp.pad(segments_bt, [(0, 0), (0, tiling.padding)])
        segments_ut = jnp.repeat(padded_bt, heads, axis=0)
    units = Unit(by_unit(scaled_btmgh), by_unit(k_btmh), by_unit(v_btmh), slopes_ug, segments_ut)
    out_ugth = _attend(units, tiling, scores)
    out_bmgth = out_ugth.reshape(batch, heads, *out_ugth.shape[1:])
    return jnp.moveaxis(out_bmgth, -2, 1)[:, :length]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _attend(units: Unit, tiling: Tiling, scores: Scores) -> jax.Array:
    return _forward(units, tiling, scores)[0]


def _forward(units: Unit, tiling: Tiling, scores: Scores) -> tuple[jax.Array, Any]:
    """The outputs (U, G, T, H), and what the backward pass needs, including the logarithms of the
    softmax sums, from which any weight can be computed again.
    """
    results = jax.lax.map(partial(_forward_of_unit, tiling, scores), units)
    return results[0], (units, *results)


def _forward_of_unit(tiling: Tiling, scores: Scores, unit: Unit) -> tuple[jax.Array, jax.Array]:
    dtype = sum_dtype(unit.q_gth)

    def step(carry: Any, starts: jax.Array) -> tuple[Any, None]:
        tile = _Tile(starts, tiling, scores)
        q_gqh, k_sh, v_sh = tile.parts(unit)
        scores_gqs, _ = tile.scores(q_gqh, k_sh, unit)
        sums_gqh, totals_gq, greatest_gq = map(tile.queries, carry)
        greater_gq = jnp.maximum(greatest_gq, scores_gqs.max(axis=-1))
        # A row that has seen no key yet has none but -inf: 0 instead keeps its weights at 0.
        level_gq = jnp.where(greater_gq == -jnp.inf, 0, greater_gq)
        shrink_gq = jnp.exp(greatest_gq - level_gq)
        weights_gqs = jnp.exp(scores_gqs - level_gq[..., None])
        mixed_gqh = _products(weights_gqs.astype(v_sh.dtype), v_sh, (2, 0), dtype)
        sums_gqh = sums_gqh * shrink_gq[..., None] + mixed_gqh
        totals_gq = totals_gq * shrink_gq + weights_gqs.sum(axis=-1)
        new = sums_gqh, totals_gq, greater_gq
        return tuple(map(tile.with_queries, carry, new)), None

    meeting = _skipping(step, unit, tiling)
    zeros_gt = jnp.zeros(unit.q_gth.shape[:2], dtype)
    start = jnp.zeros(unit.q_gth.shape, dtype), zeros_gt, zeros_gt - jnp.inf
    (sums, totals, greatest), _ = jax.lax.scan(
        meeting, start, jnp.asarray(tiling.tiles(scores.window))
    )
    return (sums / totals[..., None]).astype(unit.q_gth.dtype), greatest + jnp.log(totals)


def _backward(tiling: Tiling, scores: Scores, residuals: Any, gradient_ugth: jax.Array) -> Any:
    of_unit = partial(_backward_of_unit, tiling, scores)
    return (jax.lax.map(of_unit, (*residuals, gradient_ugth)),)


def _backward_of_unit(tiling: Tiling, scores: Scores, parts: tuple[Any, ...]) -> Unit:
    """The gradients of a unit."""
    unit, out_gth, logs_gt, gradient_gth = parts
    dtype = logs_gt.dtype
    along_gt = jnp.einsum("gth,gth->gt", out_gth, gradient_gth, preferred_element_type=dtype)

    def step(carry: Any, starts: jax.Array) -> tuple[Any, None]:
        tile = _Tile(starts, tiling, scores)
        q_gqh, k_sh, v_sh = tile.parts(unit)
        scores_gqs, by_raw = tile.scores(q_gqh, k_sh, unit)
        weights_gqs = jnp.exp(scores_gqs - tile.queries(logs_gt)[..., None])
        gradient_gqh = tile.queries(gradient_gth)
        by_weights_gqs = _products(gradient_gqh, v_sh, (2, 1), dtype)
        by_scores_gqs = weights_gqs * (by_weights_gqs - tile.queries(along_gt)[..., None])
        by_scores_gqs = (by_scores_gqs * by_raw).astype(k_sh.dtype)
        weights_gqs = weights_gqs.astype(v_sh.dtype)
        rows = (0, 1), (0, 1)
        by_q, by_k, by_v = carry
        by_q_gqh = tile.queries(by_q) + _products(by_scores_gqs, k_sh, (2, 0), dtype)
        # Sums over queries need the transpose of one factor: here it is the narrower one's.
        by_k = tile.add_to_keys(by_k, _products(q_gqh, by_scores_gqs, rows, dtype))
        by_v = tile.add_to_keys(by_v, _products(gradient_gqh, weights_gqs, rows, dtype))
        return (tile.with_queries(by_q, by_q_gqh), by_k, by_v), None

    meeting = _skipping(step, unit, tiling)
    zeros_ht = jnp.zeros(unit.k_th.T.shape, dtype)
    start = jnp.zeros(unit.q_gth.shape, dtype), zeros_ht, zeros_ht
    (by_q, by_k, by_v), _ = jax.lax.scan(meeting, start, jnp.asarray(tiling.tiles(scores.window)))
    by_q, by_k, by_v = (x.astype(unit.q_gth.dtype) for x in (by_q, by_k.T, by_v.T))
    return Unit(by_q, by_k, by_v, jnp.zeros_like(unit.slopes_g), None)


_attend.defvjp(_forward, _backward)


def _skipping(step: Step, unit: Unit, tiling: Tiling) -> Step:
    """`step`, skipped at tiles whose queries and keys have no segment in common."""
    segments_t = unit.segments_t
    if segments_t is None:
        return step

    def only_where_they_meet(carry: Any, starts: jax.Array) -> tuple[Any, None]:
        of_queries = jax.lax.dynamic_slice_in_dim(segments_t, starts[0], tiling.queries)
        of_keys = jax.lax.dynamic_slice_in_dim(segments_t, starts[1], tiling.keys)
        meet = (of_keys.max() >= of_queries.min()) & (of_keys.min() <= of_queries.max())
        return jax.lax.cond(meet, step, lambda carry, _: (carry, None), carry, starts)

    return only_where_they_meet


class _Tile(NamedTuple):
    """One tile, which begins at the query and the key `starts` (2,)."""

    starts: jax.Array
    tiling: Tiling
    how: Scores

    def queries(self, x: jax.Array) -> jax.Array:
        """The tile's positions of `x` (G, T, ...)."""
        return jax.lax.dynamic_slice_in_dim(x, self.starts[0], self.tiling.queries, axis=1)

    def with_queries(self, x: jax.Array, new: jax.Array) -> jax.Array:
        """`x` (G, T, ...) with the tile's positions replaced by `new`."""
        return jax.lax.dynamic_update_slice_in_dim(x, new, self.starts[0], axis=1)

    def keys(self, x_th: jax.Array) -> jax.Array:
        """The tile's positions of keys or values."""
        return jax.lax.dynamic_slice_in_dim(x_th, self.starts[1], self.tiling.keys)

    def add_to_keys(self, x_ht: jax.Array, more_hs: jax.Array) -> jax.Array:
        """`x_ht` with `more_hs` added to the positions of the tile's keys."""
        old_hs = jax.lax.dynamic_slice_in_dim(x_ht, self.starts[1], self.tiling.keys, axis=1)
        new_hs = old_hs + more_hs
        return jax.lax.dynamic_update_slice_in_dim(x_ht, new_hs, self.starts[1], axis=1)

    def parts(self, unit: Unit) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The tile's queries, keys and values."""
        return self.queries(unit.q_gth), self.keys(unit.k_th), self.keys(unit.v_th)

    def scores(
        self, q_gqh: jax.Array, k_sh: jax.Array, unit: Unit
    ) -> tuple[jax.Array, jax.Array | float]:
        """The scores (G, Q, S), -inf where hidden; and their derivatives by the products."""
        by_raw: jax.Array | float = 1.0
        scores_gqs = _products(q_gqh, k_sh, (2, 1), unit.slopes_g.dtype)
        if cap := self.how.softcap:
            bounded = jnp.tanh(scores_gqs / cap)
            scores_gqs, by_raw = cap * bounded, 1 - jnp.square(bounded)
        queries_q1 = (self.starts[0] + jnp.arange(self.tiling.queries))[:, None]
        distance_qs = queries_q1 - (self.starts[1] + jnp.arange(self.tiling.keys))
        if self.how.slopes is not None:
            scores_gqs -= unit.slopes_g[:, None, None] * distance_qs
        seen_qs = distance_qs >= 0
        if self.how.window is not None:
            seen_qs &= distance_qs < self.how.window
        if unit.segments_t is not None:
            of_queries_q = self.queries(unit.segments_t[None])[0]
            seen_qs &= of_queries_q[:, None] == self.keys(unit.segments_t)
        return jnp.where(seen_qs, scores_gqs, -jnp.inf), by_raw


def _products(a: jax.Array, b: jax.Array, axes: Any, dtype: jnp.dtype) -> jax.Array:
    """The sums of products over these axes of both, in `dtype`."""
    return jnp.tensordot(a, b, axes=axes, preferred_element_type=dtype)

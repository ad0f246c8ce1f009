"""Forms of attention, as pure functions of queries, keys and values.

Shapes: B batch, T queries, S keys, M heads of keys and values, G queries for each, H head width.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxgpt.model.precision import sum_dtype
from jaxgpt.model.spec import Scores

# (queries (B, T, M, G, H), keys and values (B, T, M, H), scale, Scores, and for rows with several
# texts their segments (B, T)) -> the weighted sums of the values, in the shape of the queries.
Form = Callable[..., jax.Array]
Scale = jax.Array | float  # the factor of the scores; an array where it depends on the layer
Segments = tuple[jax.Array, jax.Array] | None  # of the queries (B, T) and of the keys (B, S)


def plain(
    q_btmgh: jax.Array,
    k_btmh: jax.Array,
    v_btmh: jax.Array,
    scale: Scale,
    scores: Scores,
    segments_bt: jax.Array | None = None,
) -> jax.Array:
    """Textbook attention: all scores at once."""
    segments = None if segments_bt is None else (segments_bt, segments_bt)
    weights_bmgts = attention_weights(q_btmgh, k_btmh, scale, scores, segments=segments)
    return _mix(weights_bmgts.astype(v_btmh.dtype), v_btmh)


def chunked(
    q_btmgh: jax.Array,
    k_btmh: jax.Array,
    v_btmh: jax.Array,
    scale: Scale,
    scores: Scores,
    segments_bt: jax.Array | None = None,
) -> jax.Array:
    """Attention by blocks of queries, each with the keys that its window and the causal mask let
    it see.

    This skips most of the scores that the mask would discard.
    """
    length = q_btmgh.shape[1]
    width = 64 * -(-length // 512)  # 2 blocks from 128 positions on, and never more than 8
    scaled_btmgh = q_btmgh * jnp.asarray(scale, q_btmgh.dtype)
    blocks = []
    for start in range(0, length, width):
        first = max(0, start + 1 - (scores.window or length))
        queries, keys = slice(start, start + width), slice(first, start + width)
        parts = scaled_btmgh[:, queries], k_btmh[:, keys], v_btmh[:, keys]
        segments = None
        if segments_bt is not None:
            segments = segments_bt[:, queries], segments_bt[:, keys]
        blocks.append(_attend_block(*parts, None, segments, scores))
    return jnp.concatenate(blocks, axis=1)


def unordered(
    q_btmgh: jax.Array,
    k_bsmh: jax.Array,
    v_bsmh: jax.Array,
    scale: Scale,
    scores: Scores,
    mask_bs: jax.Array,
) -> jax.Array:
    """Attention of every query to all keys for which `mask_bs` is true, regardless of position."""
    scaled_btmgh = q_btmgh * jnp.asarray(scale, q_btmgh.dtype)
    return _attend_block(scaled_btmgh, k_bsmh, v_bsmh, mask_bs, None, scores)


def scattered(
    q_btmgh: jax.Array,
    k_bsmh: jax.Array,
    v_bsmh: jax.Array,
    distance_bts: jax.Array,
    scale: Scale,
    scores: Scores,
) -> jax.Array:
    """Attention to keys in any order, each of which is `distance_bts` positions before a query.

    Keys at a negative distance are hidden.
    """
    scaled_btmgh = q_btmgh * jnp.asarray(scale, q_btmgh.dtype)
    raw_bmgts, distance_b11ts = _products(scaled_btmgh, k_bsmh), distance_bts[:, None, None]
    seen_b11ts = distance_b11ts >= 0
    if scores.window is not None:
        seen_b11ts &= distance_b11ts < scores.window
    scores_bmgts = _biased(_capped(raw_bmgts, scores), distance_b11ts, scores)
    weights_bmgts = jax.nn.softmax(jnp.where(seen_b11ts, scores_bmgts, -jnp.inf))
    return _mix(weights_bmgts.astype(v_bsmh.dtype), v_bsmh)


def attend_cached(
    q_bmgh: jax.Array,
    own_bmh: tuple[jax.Array, jax.Array],
    cached_bmsh: tuple[jax.Array, jax.Array],
    distance_bs: jax.Array,
    scale: Scale,
    scores: Scores,
) -> jax.Array:
    """Attention of one query in each row to its own position and to cached ones.

    `distance_bs` is the distance of each cached key before the query; keys at distance 0 are
    hidden. The cache has no keys from before the window.
    """
    (k_bmh, v_bmh), (k_bmsh, v_bmsh) = own_bmh, cached_bmsh
    q_bmgh = q_bmgh * jnp.asarray(scale, q_bmgh.dtype)
    raw_bmgs = jnp.einsum("bmgh,bmsh->bmgs", q_bmgh, k_bmsh)
    own_bmg1 = _capped((q_bmgh * k_bmh[:, :, None]).sum(axis=-1, keepdims=True), scores)
    distance_b11s = distance_bs[:, None, None]
    scores_bmgs = _biased(_capped(raw_bmgs, scores), distance_b11s, scores)
    scores_bmgs = jnp.where(distance_b11s > 0, scores_bmgs, -jnp.inf)
    scores_bmgs = jnp.concatenate([scores_bmgs, own_bmg1], axis=-1).astype(sum_dtype(q_bmgh))
    weights_bmgs = jax.nn.softmax(scores_bmgs).astype(v_bmsh.dtype)
    cached_bmgh = jnp.einsum("bmgs,bmsh->bmgh", weights_bmgs[..., :-1], v_bmsh)
    return cached_bmgh + weights_bmgs[..., -1:] * v_bmh[:, :, None]


def attention_weights(
    q_btmgh: jax.Array,
    k_bsmh: jax.Array,
    scale: Scale,
    scores: Scores,
    mask_bs: jax.Array | None = None,
    segments: Segments = None,
) -> jax.Array:
    """Weights (B, M, G, T, S) of each key for each query.

    A query sees the keys for which `mask_bs` is true. Without a mask, the queries are the last
    positions of the text and see themselves and the positions before, in their own segment if there
    are `segments`.
    """
    scaled_btmgh = q_btmgh * jnp.asarray(scale, q_btmgh.dtype)
    scores_bmgts = _capped(_products(scaled_btmgh, k_bsmh), scores)
    if mask_bs is not None:
        return jax.nn.softmax(jnp.where(mask_bs[:, None, None, None], scores_bmgts, -jnp.inf))
    t, s = scores_bmgts.shape[-2:]
    distance_ts = jnp.arange(s - t, s)[:, None] - jnp.arange(s)
    seen = distance_ts >= 0
    if scores.window is not None:
        seen &= distance_ts < scores.window
    if segments is not None:
        of_queries_bt, of_keys_bs = segments
        seen = seen & (of_queries_bt[:, None, None, :, None] == of_keys_bs[:, None, None, None])
    return jax.nn.softmax(jnp.where(seen, _biased(scores_bmgts, distance_ts, scores), -jnp.inf))


def _capped(raw: jax.Array, scores: Scores) -> jax.Array:
    cap = scores.softcap
    return raw if cap is None else cap * jnp.tanh(raw / cap)


def _biased(raw: jax.Array, distance: jax.Array, scores: Scores) -> jax.Array:
    """The scores `raw` (B, M, G, ...) minus each head's slope times the distance of the key."""
    if scores.slopes is None:
        return raw
    slopes = jnp.asarray(scores.slopes, raw.dtype).reshape(*raw.shape[1:3], *[1] * (raw.ndim - 3))
    return raw - (slopes * distance).astype(raw.dtype)


def _mix(weights_bmgts: jax.Array, v_bsmh: jax.Array) -> jax.Array:
    """Sums (B, T, M, G, H) of the values of each head, weighted."""
    # The weights come first, because einsum would transpose them: it begins with the values.
    values = ((4,), (1,)), ((0, 1), (0, 2))
    return jnp.moveaxis(jax.lax.dot_general(weights_bmgts, v_bsmh, values), 3, 1)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend_block(
    q_btmgh: jax.Array,
    k_bsmh: jax.Array,
    v_bsmh: jax.Array,
    mask_bs: jax.Array | None,
    segments: Segments,
    scores: Scores,
) -> jax.Array:
    return _forward(q_btmgh, k_bsmh, v_bsmh, mask_bs, segments, scores)[0]


def _forward(
    q_btmgh: jax.Array,
    k_bsmh: jax.Array,
    v_bsmh: jax.Array,
    mask_bs: jax.Array | None,
    segments: Segments,
    scores: Scores,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    weights_bmgts = attention_weights(q_btmgh, k_bsmh, 1.0, scores, mask_bs, segments)
    weights_bmgts = weights_bmgts.astype(v_bsmh.dtype)
    return _mix(weights_bmgts, v_bsmh), (q_btmgh, k_bsmh, v_bsmh, weights_bmgts)


def _backward(
    scores: Scores, residuals: tuple[jax.Array, ...], gradient_btmgh: jax.Array
) -> tuple[jax.Array | None, ...]:
    """Gradients written by hand: autodiff would make more passes over the (T, S) matrices."""
    q_btmgh, k_bsmh, v_bsmh, weights_bmgts = residuals
    by_weights = _products(gradient_btmgh, v_bsmh)
    # A single product, because multiplying and then summing takes XLA twice as long.
    along_bmgt = jnp.einsum("bmgts,bmgts->bmgt", by_weights, weights_bmgts)
    by_scores = weights_bmgts * (by_weights - along_bmgt[..., None])
    if scores.softcap is not None:
        raw_bmgts = _products(q_btmgh, k_bsmh)
        by_scores *= 1 - jnp.square(jnp.tanh(raw_bmgts / scores.softcap))
    by_scores = by_scores.astype(q_btmgh.dtype)
    return (
        _mix(by_scores, k_bsmh),
        jnp.einsum("bmgts,btmgh->bsmh", by_scores, q_btmgh),
        jnp.einsum("bmgts,btmgh->bsmh", weights_bmgts, gradient_btmgh),
        None,  # for the mask
        None,  # for the segments
    )


_attend_block.defvjp(_forward, _backward)


def _products(a_btmgh: jax.Array, b_bsmh: jax.Array) -> jax.Array:
    """Products (B, M, G, T, S) of heads, in `sum_dtype`."""
    # Transposed by hand, because einsum would transpose the product, which is larger.
    a_bmgth = jnp.moveaxis(a_btmgh, 1, 3)
    return jnp.einsum(
        "bmgth,bsmh->bmgts", a_bmgth, b_bsmh, preferred_element_type=sum_dtype(a_bmgth)
    )

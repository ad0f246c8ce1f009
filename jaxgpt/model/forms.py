"""Equivalent forms of causal attention, as pure functions of queries, keys and values.

Shapes: B batch, T queries, S keys, N heads, H head width.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# (queries, keys, values, scale) -> the weighted sums of the values, all (B, T, N, H).
Form = Callable[..., jax.Array]
Scale = jax.Array | float  # the factor of the scores; an array where it depends on the layer


def plain(q_btnh: jax.Array, k_btnh: jax.Array, v_btnh: jax.Array, scale: Scale) -> jax.Array:
    """Textbook attention: all scores at once."""
    return _mix(attention_weights(q_btnh, k_btnh, scale).astype(v_btnh.dtype), v_btnh)


def chunked(q_btnh: jax.Array, k_btnh: jax.Array, v_btnh: jax.Array, scale: Scale) -> jax.Array:
    """Attention by blocks of queries, each with the keys up to its own end.

    This skips most of the scores that the causal mask would discard.
    """
    length = q_btnh.shape[1]
    width = 64 * -(-length // 512)  # 128 positions make 2 blocks, and no length makes more than 8
    scaled_btnh = q_btnh * jnp.asarray(scale, q_btnh.dtype)
    blocks = [
        _attend_block(
            scaled_btnh[:, start : start + width],
            k_btnh[:, : start + width],
            v_btnh[:, : start + width],
        )
        for start in range(0, length, width)
    ]
    return jnp.concatenate(blocks, axis=1)


def attend_cached(
    q_bnh: jax.Array,
    own_bnh: tuple[jax.Array, jax.Array],
    k_bnsh: jax.Array,
    v_bnsh: jax.Array,
    position_b: jax.Array,
    scale: Scale,
) -> jax.Array:
    """Attention of one query in each row to its own position and the cached ones before it."""
    k_bnh, v_bnh = own_bnh
    q_bnh = q_bnh * jnp.asarray(scale, q_bnh.dtype)
    before_bs = jnp.arange(k_bnsh.shape[2]) < position_b[:, None]
    scores_bns = jnp.where(before_bs[:, None], jnp.einsum("bnh,bnsh->bns", q_bnh, k_bnsh), -jnp.inf)
    scores_bns = jnp.concatenate([scores_bns, (q_bnh * k_bnh).sum(axis=-1, keepdims=True)], axis=-1)
    weights_bns = jax.nn.softmax(scores_bns.astype(sum_dtype(q_bnh))).astype(v_bnsh.dtype)
    cached_bnh = jnp.einsum("bns,bnsh->bnh", weights_bns[..., :-1], v_bnsh)
    return cached_bnh + weights_bns[..., -1:] * v_bnh


def attention_weights(q_btnh: jax.Array, k_bsnh: jax.Array, scale: Scale) -> jax.Array:
    """Weights (B, N, T, S) of each key for each query; the queries are the last positions."""
    scores_bnts = _sums("btnh,bsnh->bnts", q_btnh * jnp.asarray(scale, q_btnh.dtype), k_bsnh)
    t, s = scores_bnts.shape[-2:]
    return jax.nn.softmax(
        jnp.where(jnp.tril(jnp.ones((t, s), bool), k=s - t), scores_bnts, -jnp.inf)
    )


def _mix(weights_bnts: jax.Array, v_bsnh: jax.Array) -> jax.Array:
    return jnp.einsum("bnts,bsnh->btnh", weights_bnts, v_bsnh)


@jax.custom_vjp
def _attend_block(q_btnh: jax.Array, k_bsnh: jax.Array, v_bsnh: jax.Array) -> jax.Array:
    return _forward(q_btnh, k_bsnh, v_bsnh)[0]


def _forward(
    q_btnh: jax.Array, k_bsnh: jax.Array, v_bsnh: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    weights_bnts = attention_weights(q_btnh, k_bsnh, 1.0).astype(v_bsnh.dtype)
    return _mix(weights_bnts, v_bsnh), (q_btnh, k_bsnh, v_bsnh, weights_bnts)


def _backward(residuals: tuple[jax.Array, ...], gradient_btnh: jax.Array) -> tuple[jax.Array, ...]:
    """Gradients written by hand: autodiff would make more passes over the (T, S) matrices."""
    q_btnh, k_bsnh, v_bsnh, weights_bnts = residuals
    by_weights = _sums("btnh,bsnh->bnts", gradient_btnh, v_bsnh)
    along = (by_weights * weights_bnts).sum(axis=-1, keepdims=True)
    by_scores = (weights_bnts * (by_weights - along)).astype(q_btnh.dtype)
    return (
        jnp.einsum("bnts,bsnh->btnh", by_scores, k_bsnh),
        jnp.einsum("bnts,btnh->bsnh", by_scores, q_btnh),
        jnp.einsum("bnts,btnh->bsnh", weights_bnts, gradient_btnh),
    )


_attend_block.defvjp(_forward, _backward)


def _sums(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """An einsum that accumulates in `sum_dtype`, also for 16-bit operands."""
    return jnp.einsum(subscripts, a, b, preferred_element_type=sum_dtype(a))


def sum_dtype(x: jax.Array) -> jnp.dtype:
    """The dtype for sums and exponentials of `x`: its own, but at least float32."""
    return jnp.promote_types(x.dtype, jnp.float32)

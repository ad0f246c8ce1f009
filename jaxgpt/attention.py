"""Causal attention over heads. Knows no parameters: queries, keys and values come in, their mixture goes out.

Shapes: B batch, T queries, S keys, N heads, H head width.
"""

import jax
import jax.numpy as jnp


def attend(q_btnh: jax.Array, k_btnh: jax.Array, v_btnh: jax.Array, scale: jax.Array | float) -> jax.Array:
    """Queries in blocks, each with the keys up to its own end: little is computed that the mask would throw away."""
    length = q_btnh.shape[1]
    width = 64 * -(-length // 512)  # 2 blocks of 128 positions, at most 8 of any length
    scaled_btnh = q_btnh * jnp.asarray(scale, q_btnh.dtype)
    blocks = [
        _attend_block(scaled_btnh[:, start : start + width], k_btnh[:, : start + width], v_btnh[:, : start + width])
        for start in range(0, length, width)
    ]
    return jnp.concatenate(blocks, axis=1)


def attend_cached(
    q_bnh: jax.Array,
    own_bnh: tuple[jax.Array, jax.Array],
    k_bnsh: jax.Array,
    v_bnsh: jax.Array,
    position_b: jax.Array,
    scale: jax.Array | float,
) -> jax.Array:
    """One query in each row, with its own key and value and with those that were kept before its position."""
    k_bnh, v_bnh = own_bnh
    q_bnh = q_bnh * jnp.asarray(scale, q_bnh.dtype)
    before_bs = jnp.arange(k_bnsh.shape[2]) < position_b[:, None]
    scores_bns = jnp.where(before_bs[:, None], jnp.einsum("bnh,bnsh->bns", q_bnh, k_bnsh), -jnp.inf)
    scores_bns = jnp.concatenate([scores_bns, (q_bnh * k_bnh).sum(axis=-1, keepdims=True)], axis=-1)
    weights_bns = jax.nn.softmax(scores_bns.astype(sum_dtype(q_bnh))).astype(v_bnsh.dtype)
    kept_bnh = jnp.einsum("bns,bnsh->bnh", weights_bns[..., :-1], v_bnsh)
    return kept_bnh + weights_bns[..., -1:] * v_bnh


def attention_weights(q_btnh: jax.Array, k_bsnh: jax.Array, scale: jax.Array | float) -> jax.Array:
    """(B, N, T, S): how much each query takes from each key."""
    scores_bnts = jnp.einsum("btnh,bsnh->bnts", q_btnh * scale, k_bsnh)
    return jax.nn.softmax(jnp.where(jnp.tril(jnp.ones(scores_bnts.shape[-2:], bool)), scores_bnts, -jnp.inf))


@jax.custom_vjp
def _attend_block(q_btnh: jax.Array, k_bsnh: jax.Array, v_bsnh: jax.Array) -> jax.Array:
    """The queries are the last of the positions that the keys have."""
    return _forward(q_btnh, k_bsnh, v_bsnh)[0]


def _forward(q_btnh: jax.Array, k_bsnh: jax.Array, v_bsnh: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    scores_bnts = jnp.einsum("btnh,bsnh->bnts", q_btnh, k_bsnh).astype(sum_dtype(q_btnh))
    t, s = scores_bnts.shape[-2:]
    past_ts = jnp.tril(jnp.ones((t, s), bool), k=s - t)
    weights_bnts = jax.nn.softmax(jnp.where(past_ts, scores_bnts, -jnp.inf)).astype(v_bsnh.dtype)
    return jnp.einsum("bnts,bsnh->btnh", weights_bnts, v_bsnh), (q_btnh, k_bsnh, v_bsnh, weights_bnts)


def _backward(kept: tuple[jax.Array, ...], gradient_btnh: jax.Array) -> tuple[jax.Array, ...]:
    """By hand: automatic differentiation passes over the (T, S) matrices more often than it must."""
    q_btnh, k_bsnh, v_bsnh, weights_bnts = kept
    by_weights = jnp.einsum("btnh,bsnh->bnts", gradient_btnh, v_bsnh).astype(sum_dtype(gradient_btnh))
    along = (by_weights * weights_bnts).sum(axis=-1, keepdims=True)
    by_scores = (weights_bnts * (by_weights - along)).astype(q_btnh.dtype)
    return (
        jnp.einsum("bnts,bsnh->btnh", by_scores, k_bsnh),
        jnp.einsum("bnts,btnh->bsnh", by_scores, q_btnh),
        jnp.einsum("bnts,btnh->bsnh", weights_bnts, gradient_btnh),
    )


_attend_block.defvjp(_forward, _backward)


def sum_dtype(x: jax.Array) -> jnp.dtype:
    """Sums and exponentials are taken in float32 at least, whatever the matrices are in."""
    return jnp.promote_types(x.dtype, jnp.float32)

"""Causal attention over heads. Knows no parameters: queries, keys and values come in, their mixture goes out.

Shapes: B batch, T queries, S keys, N heads, H head width.
"""

import jax
import jax.numpy as jnp


def attend(q_btnh: jax.Array, k_bsnh: jax.Array, v_bsnh: jax.Array, scale: jax.Array | float) -> jax.Array:
    scores_bnts = jnp.einsum("btnh,bsnh->bnts", q_btnh, k_bsnh).astype(softmax_dtype(q_btnh)) * scale
    t, s = scores_bnts.shape[-2:]
    past_ts = jnp.tril(jnp.ones((t, s), bool), k=s - t)
    weights_bnts = jax.nn.softmax(jnp.where(past_ts, scores_bnts, -jnp.inf))
    return jnp.einsum("bnts,bsnh->btnh", weights_bnts.astype(v_bsnh.dtype), v_bsnh)


def softmax_dtype(x: jax.Array) -> jnp.dtype:
    """Exponentials are summed in float32 at least, whatever the matrices are in."""
    return jnp.promote_types(x.dtype, jnp.float32)

"""The choice of a token from logits.

Shapes: B rows, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxgpt.errors import require, whole

NOT_FINITE = -2  # stands for an id where the logits are not finite
FEW = 1024  # size of the partial sort that usually is enough


class Sampling(NamedTuple):
    """Options of the choice; arrays, so that other values need no new compilation."""

    temperature: jax.Array  # 0: the likeliest token
    top_k: jax.Array  # number of likeliest ids to choose from
    top_p: jax.Array  # the fewest likeliest ids whose probabilities reach this sum
    min_p: jax.Array  # least probability, as a share of the likeliest id's
    allowed_v: jax.Array  # False for ids that decode to nothing, such as vocabulary padding


def make_sampling(
    vocab_size: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    allowed: ArrayLike | None,
) -> Sampling:
    """Check the options, and put them in arrays; `top_k` 0 allows all of the `vocab_size` ids."""
    # Beyond these limits a division of float32 logits overflows or loses them.
    fits = temperature == 0 or 1e-30 <= temperature <= 1e30
    require(
        fits,
        "temperature must be 0 (the likeliest token) or lie in [1e-30, 1e30], "
        f"but is {temperature}.",
    )
    top_k = whole("top_k", top_k)
    require(
        0 <= top_k <= vocab_size,
        f"top_k must lie between 1 and the {vocab_size} ids there are, but is {top_k}.",
    )
    require(0 < top_p <= 1, f"top_p must lie in (0, 1], but is {top_p}.")
    require(0 <= min_p <= 1, f"min_p must lie in [0, 1], but is {min_p}.")
    mask = np.ones(vocab_size, bool) if allowed is None else np.asarray(allowed, bool)
    require(
        mask.shape == (vocab_size,),
        f"allowed must have shape ({vocab_size},), but has {mask.shape}.",
    )
    require(bool(mask.any()), "allowed leaves no id to choose.")
    top_k = top_k or vocab_size
    numbers = jnp.float32(temperature), jnp.int32(top_k), jnp.float32(top_p), jnp.float32(min_p)
    return Sampling(*numbers, jnp.asarray(mask))


def choose(
    logits_bv: jax.Array, keys_b: jax.Array, sampling: Sampling
) -> tuple[jax.Array, jax.Array]:
    """Chosen ids (B,) and their log-probabilities, at temperature 1 and with nothing cut off."""
    logits_bv = logits_bv.astype(jnp.promote_types(logits_bv.dtype, jnp.float32))
    finite_b = jnp.isfinite(logits_bv).all(axis=-1)
    allowed_bv = jnp.where(sampling.allowed_v, logits_bv, -jnp.inf)
    ids_b = jax.lax.cond(
        sampling.temperature > 0,
        lambda: jax.vmap(jax.random.categorical)(keys_b, kept(allowed_bv, sampling)),
        lambda: allowed_bv.argmax(axis=-1),
    )
    logp_b = jnp.take_along_axis(jax.nn.log_softmax(logits_bv), ids_b[:, None], axis=-1)[:, 0]
    return jnp.where(finite_b, ids_b, NOT_FINITE).astype(jnp.int32), logp_b


def kept(logits_bv: jax.Array, sampling: Sampling) -> jax.Array:
    """Logits divided by the temperature, -inf where cut off.

    `top_k` cuts first, then `top_p` among the remaining ids, then `min_p`. Of equal logits the
    lower id ranks first.
    """
    # With the maximum at 0 a division can overflow only to -inf, for ids far below it.
    below_bv = logits_bv - logits_bv.max(axis=-1, keepdims=True)
    scaled_bv = below_bv / sampling.temperature.astype(logits_bv.dtype)
    cutting = (sampling.top_k < scaled_bv.shape[-1]) | (sampling.top_p < 1)
    cut_bv = jax.lax.cond(cutting, lambda: _cut(scaled_bv, sampling), lambda: scaled_bv)
    return jnp.where(cut_bv < jnp.log(sampling.min_p), -jnp.inf, cut_bv)


def _cut(scaled_bv: jax.Array, sampling: Sampling) -> jax.Array:
    """Logits with -inf where `top_k` or `top_p` cuts.

    A sort of the whole vocabulary takes as long as a small model, so only the `FEW` likeliest ids
    are sorted where those are enough.
    """
    ids = scaled_bv.shape[-1]
    all_b = jax.nn.logsumexp(scaled_bv, axis=-1, keepdims=True)

    def among(likeliest: int) -> jax.Array:
        ordered_bk, order_bk = jax.lax.top_k(scaled_bv, likeliest)
        ranks_k = jnp.arange(likeliest)
        ordered_bk = jnp.where(ranks_k < sampling.top_k, ordered_bk, -jnp.inf)
        remaining_b = jnp.where(
            sampling.top_k < ids, jax.nn.logsumexp(ordered_bk, axis=-1, keepdims=True), all_b
        )
        p_bk = jnp.exp(ordered_bk - remaining_b)
        within_bk = (
            (jnp.cumsum(p_bk, axis=-1) - p_bk < sampling.top_p)
            | (sampling.top_p >= 1)
            | (ranks_k == 0)
        )
        ordered_bk = jnp.where(within_bk, ordered_bk, -jnp.inf)
        return jnp.put_along_axis(
            jnp.full_like(scaled_bv, -jnp.inf), order_bk, ordered_bk, axis=-1, inplace=False
        )

    if ids <= FEW:
        return among(ids)
    few_b = jax.nn.logsumexp(jax.lax.top_k(scaled_bv, FEW)[0], axis=-1, keepdims=True)
    by_p = (sampling.top_k >= ids) & (jnp.exp(few_b - all_b) > sampling.top_p).all()
    return jax.lax.cond((sampling.top_k <= FEW) | by_p, lambda: among(FEW), lambda: among(ids))

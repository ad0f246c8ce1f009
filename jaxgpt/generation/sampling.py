"""The choice of a token from logits.

Shapes: B rows, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.model.precision import sum_dtype

NOT_FINITE = -2  # stands for an id where the logits are not finite
Array = jax.Array | np.ndarray
FEW = 1024  # size of the partial sort that usually is enough


class Sampling(NamedTuple):
    """The options by which tokens are chosen, as arrays, so that other values need no compilation.

    All but `allowed_v` are one value for all rows, or have the shape (B, 1).
    """

    temperature: Array  # 0 takes the most likely token
    top_k: Array  # number of most likely ids to choose from
    top_p: Array  # the fewest most likely ids whose probabilities reach this sum
    min_p: Array  # lowest probability, as a share of the highest one
    allowed_v: Array  # False for ids that decode to nothing, such as vocabulary padding


def for_rows(each: Sequence[Sampling], counts: Sequence[int]) -> Sampling:
    """The options of a batch in which `each[i]` has `counts[i]` rows; all allow the same ids."""

    def by_row(name: str) -> np.ndarray:
        return np.repeat([getattr(one, name) for one in each], counts)[:, None]

    fields = {name: by_row(name) for name in Sampling._fields[:-1]}
    return Sampling(**fields, allowed_v=each[0].allowed_v)


def choose(
    logits_bv: jax.Array, keys_b: jax.Array, sampling: Sampling
) -> tuple[jax.Array, jax.Array]:
    """Chosen ids (B,), and their log-probabilities under the model itself, before any options."""
    logits_bv = logits_bv.astype(sum_dtype(logits_bv))
    finite_b = jnp.isfinite(logits_bv).all(axis=-1)
    allowed_bv = jnp.where(sampling.allowed_v, logits_bv, -jnp.inf)
    greedy_b = likeliest(allowed_bv)
    drawing_b1 = jnp.broadcast_to(sampling.temperature > 0, (len(greedy_b), 1))

    def draw() -> jax.Array:
        drawn_b = jax.vmap(jax.random.categorical)(keys_b, cut_off(allowed_bv, sampling))
        return jnp.where(drawing_b1[:, 0], drawn_b, greedy_b)

    ids_b = jax.lax.cond(drawing_b1.any(), draw, lambda: greedy_b)
    logp_b = jnp.take_along_axis(jax.nn.log_softmax(logits_bv), ids_b[:, None], axis=-1)[:, 0]
    return jnp.where(finite_b, ids_b, NOT_FINITE).astype(jnp.int32), logp_b


def likeliest(logits_bv: jax.Array) -> jax.Array:
    """The lowest id (B,) with the greatest logit of each row.

    On a CPU two reductions that are vectorised take a quarter of the time of argmax, which is not.
    """
    greatest_bv = logits_bv == logits_bv.max(axis=-1, keepdims=True)
    last = logits_bv.shape[-1] - 1  # also where a logit is NaN, which equals nothing
    return jnp.where(greatest_bv, jnp.arange(last + 1), last).min(axis=-1)


def cut_off(logits_bv: jax.Array, sampling: Sampling) -> jax.Array:
    """Logits divided by the temperature, -inf where cut off.

    `top_k` cuts first, then `top_p` among the remaining ids, then `min_p`. Of equal logits the
    lower id ranks first.
    """
    # With the maximum at 0 a division can overflow only to -inf, for ids far below it.
    below_bv = logits_bv - logits_bv.max(axis=-1, keepdims=True)
    # Where the temperature is 0, nothing is drawn.
    temperature = jnp.where(sampling.temperature > 0, sampling.temperature, 1)
    scaled_bv = below_bv / temperature.astype(logits_bv.dtype)
    cutting = ((sampling.top_k < scaled_bv.shape[-1]) | (sampling.top_p < 1)).any()
    cut_bv = jax.lax.cond(cutting, lambda: _cut_by_rank(scaled_bv, sampling), lambda: scaled_bv)
    return jnp.where(cut_bv < jnp.log(sampling.min_p), -jnp.inf, cut_bv)


def _cut_by_rank(scaled_bv: jax.Array, sampling: Sampling) -> jax.Array:
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
    uncut = (sampling.top_k >= ids) & (sampling.top_p >= 1)
    by_p = (sampling.top_k >= ids) & (jnp.exp(few_b - all_b) > sampling.top_p)
    enough = (uncut | (sampling.top_k <= FEW) | by_p).all()
    cut_bv = jax.lax.cond(enough, lambda: among(FEW), lambda: among(ids))
    return jnp.where(uncut, scaled_bv, cut_bv)

"""Norms, each with a hand-written backward pass where that saves time.

Another kind of norm is one more function in NORMALISE, under its name in `ModelConfig.norm_kind`
(model_config.py). The bridge tells the kinds apart in `convert/measuring/norm.py`; what tensors
show of them is in `convert/rows/fields.py`, the choices of `probe` in
`convert/probing/candidates.py`, and the names in the docs in `convert/dialect_tables.py`.

The place of the norms in a block (`ModelConfig.norm`) is decided by `residual` in block.py.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from jaxgpt.model import spec
from jaxgpt.model.precision import sum_dtype

LARGEST_EPSILON = float(jnp.finfo(jnp.float32).eps)  # for 16-bit numbers too, as in torch


class Norm(nnx.Module):
    """A norm over the last axes of its input, of this `shape`, with the parameters that `s`
    specifies."""

    def __init__(self, s: spec.Norm, *shape: int):
        if s.scale:
            self.scale = nnx.Param(jnp.full(shape, 0.0 if s.unit_offset else 1.0, jnp.float32))
        if s.bias:
            self.bias = nnx.Param(jnp.zeros(shape, jnp.float32))
        self.spec, self.shape = s, shape

    def __call__(self, x: jax.Array) -> jax.Array:
        flat = x.reshape(*x.shape[: x.ndim - len(self.shape)], math.prod(self.shape))
        eps = epsilon(x.dtype) if self.spec.eps == "dtype" else self.spec.eps
        x = NORMALISE[self.spec.kind](flat, eps).reshape(x.shape)
        if self.spec.scale:
            x = x * (1 + self.scale[...] if self.spec.unit_offset else self.scale[...])
        return x + self.bias[...] if self.spec.bias else x


def epsilon(dtype: jnp.dtype) -> float:
    """The machine epsilon of `dtype`, or that of float32 for 16-bit numbers."""
    return min(float(jnp.finfo(dtype).eps), LARGEST_EPSILON)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def normalised(x_btd: jax.Array, eps: float) -> jax.Array:
    """`x_btd` with mean 0 and variance 1 over the last axis."""
    return _normalise(x_btd, eps)[0]


def _normalise(x_btd: jax.Array, eps: float) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Mean of squares minus squared mean would lose the variance to rounding when the mean is large.
    centred = x_btd.astype(sum_dtype(x_btd))
    centred -= centred.mean(axis=-1, keepdims=True)
    return _divided(centred, eps, x_btd.dtype)


def _normalise_backward(
    eps: float, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    normal, inverse_std = residuals
    along = _mean_product(gradient, normal, inverse_std.dtype)
    level = gradient.mean(axis=-1, keepdims=True, dtype=inverse_std.dtype)
    return (((gradient - level - normal * along) * inverse_std).astype(gradient.dtype),)


normalised.defvjp(_normalise, _normalise_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def unit_rms(x_btd: jax.Array, eps: float) -> jax.Array:
    """`x_btd` with mean square 1 over the last axis."""
    return _unit_rms(x_btd, eps)[0]


def _unit_rms(x_btd: jax.Array, eps: float) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _divided(x_btd.astype(sum_dtype(x_btd)), eps, x_btd.dtype)


def _unit_rms_backward(
    eps: float, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    normal, inverse = residuals
    along = _mean_product(gradient, normal, inverse.dtype)
    return (((gradient - normal * along) * inverse).astype(gradient.dtype),)


unit_rms.defvjp(_unit_rms, _unit_rms_backward)


def _divided(
    x: jax.Array, eps: float, dtype: jnp.dtype
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """`x` divided by the root of its mean square plus `eps`, in `dtype`; and the residuals."""
    inverse = jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + eps)
    normal = (x * inverse).astype(dtype)
    return normal, (normal, inverse)


def _mean_product(a: jax.Array, b: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The mean (..., 1) of `a * b` over the last axis, computed in `dtype`.

    It is one einsum, because multiplying and then summing takes XLA seven times as long on a CPU
    for a single text.
    """
    summed = jnp.einsum("...d,...d->...", a, b, preferred_element_type=dtype)
    return summed[..., None] / a.shape[-1]


def unbiased(x_btd: jax.Array, eps: float) -> jax.Array:
    """`x_btd` minus its mean, divided by `eps` plus the standard deviation with n - 1 degrees of
    freedom."""
    centred = x_btd.astype(sum_dtype(x_btd))
    centred -= centred.mean(axis=-1, keepdims=True)
    std = jnp.sqrt(jnp.square(centred).sum(axis=-1, keepdims=True) / (x_btd.shape[-1] - 1))
    return (centred / (std + eps)).astype(x_btd.dtype)


NORMALISE: dict[str, Callable[[jax.Array, float], jax.Array]] = {
    "layer": normalised,
    "layer_unbiased": unbiased,
    "rms": unit_rms,
}

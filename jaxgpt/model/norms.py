"""LayerNorm with a hand-written backward pass."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from jaxgpt.model import spec
from jaxgpt.model.forms import sum_dtype


class LayerNorm(nnx.Module):
    """LayerNorm, equal to nnx.LayerNorm, with a hand-written backward pass.

    On a CPU that makes a training step a tenth shorter.
    """

    def __init__(self, s: spec.Norm, model_dim: int):
        self.scale = nnx.Param(jnp.ones(model_dim, jnp.float32))
        if s.bias:
            self.bias = nnx.Param(jnp.zeros(model_dim, jnp.float32))
        self.spec = s

    def __call__(self, x_btd: jax.Array) -> jax.Array:
        scaled = normalised(x_btd, self.spec.eps) * self.scale[...]
        return scaled + self.bias[...] if self.spec.bias else scaled


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def normalised(x_btd: jax.Array, eps: float) -> jax.Array:
    """`x_btd` with mean 0 and variance 1 over the last axis."""
    return _normalise(x_btd, eps)[0]


def _normalise(x_btd: jax.Array, eps: float) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Mean of squares minus squared mean would lose the variance to rounding when the mean is large.
    centred = x_btd.astype(sum_dtype(x_btd))
    centred -= centred.mean(axis=-1, keepdims=True)
    inverse_std = jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + eps)
    normal = (centred * inverse_std).astype(x_btd.dtype)
    return normal, (normal, inverse_std)


def _normalise_backward(
    eps: float, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    normal, inverse_std = residuals
    along = (gradient * normal).mean(axis=-1, keepdims=True, dtype=inverse_std.dtype)
    level = gradient.mean(axis=-1, keepdims=True, dtype=inverse_std.dtype)
    return (((gradient - level - normal * along) * inverse_std).astype(gradient.dtype),)


normalised.defvjp(_normalise, _normalise_backward)

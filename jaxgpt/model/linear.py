"""Linear layers with a hand-written backward pass.

Autodiff would always transpose the gradient and multiply it by the input. Here the narrower of the
two is transposed.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jaxgpt.model.int8 import Int8Kernel

PRODUCT = "product"


def linear(layer: nnx.LinearGeneral, x: jax.Array, inputs: int = 1) -> jax.Array:
    """`layer` applied to the last `inputs` axes of `x`."""
    y = product(x, layer.kernel[...], inputs)
    return y if layer.bias is None else y + layer.bias[...]


def product(x: jax.Array, kernel: jax.Array | Int8Kernel, inputs: int = 1) -> jax.Array:
    """Sums over the last `inputs` axes of `x` and the first ones of `kernel`.

    Its name, PRODUCT, is for policies that store the products of a checkpointed function.
    """
    if isinstance(kernel, Int8Kernel):
        return kernel.product(x, inputs)
    return checkpoint_name(_product(x, kernel, inputs), PRODUCT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: jax.Array, kernel: jax.Array, inputs: int) -> jax.Array:
    return jnp.tensordot(x, kernel, axes=inputs)


def _forward(
    x: jax.Array, kernel: jax.Array, inputs: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(x, kernel, inputs), (x, kernel)


def product_gradients(
    inputs: int, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The gradients by the input and the kernel, which are the `residuals` of a product."""
    x, kernel = residuals
    rows = tuple(range(x.ndim - inputs))
    outputs = tuple(range(len(rows), gradient.ndim)), tuple(range(inputs, kernel.ndim))
    by_x = jax.lax.dot_general(gradient, kernel, (outputs, ((), ())))
    sums = ((rows, rows), ((), ()))
    if x.size <= gradient.size:
        return by_x, jax.lax.dot_general(x, gradient, sums)
    swapped = jax.lax.dot_general(gradient, x, sums)
    axes = range(kernel.ndim)
    first = kernel.ndim - inputs
    return by_x, swapped.transpose(*axes[first:], *axes[:first])


_product.defvjp(_forward, product_gradients)

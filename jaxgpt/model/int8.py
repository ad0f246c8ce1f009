"""Kernels in int8, for generation on a CPU, which waits for the weights to be read from memory.

Shapes: R rows, K inputs, N outputs.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.model.precision import sum_dtype

LARGEST = 127  # the values are from -127 to 127


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8Kernel:
    """A kernel in int8, with a scale for each output.

    The inputs come last, because XLA multiplies by such a matrix twice as fast on a CPU.
    """

    values: jax.Array  # int8; the axes of the outputs, then those of the inputs
    scales: jax.Array  # the axes of the outputs

    @staticmethod
    def of(kernel: jax.Array, inputs: int) -> "Int8Kernel":
        """The int8 kernel nearest to `kernel`, whose first `inputs` axes are its inputs."""
        kernel, axes = kernel.astype(sum_dtype(kernel)), tuple(range(inputs))
        scales = _step(kernel, axes)
        values = jnp.round(kernel / scales).astype(jnp.int8)
        return Int8Kernel(jnp.moveaxis(values, axes, range(-inputs, 0)), scales.squeeze(axes))

    def __getitem__(self, index: Any) -> "Int8Kernel":
        """The kernel itself for `...`; else for the outputs that `index` selects, after a slice of
        all inputs, which have one axis."""
        if index is Ellipsis:
            return self
        return Int8Kernel(self.values[index[1:]], self.scales[index[1:]])

    def product(self, x: jax.Array, inputs: int) -> jax.Array:
        """Sums over the last `inputs` axes of `x` and the inputs of the kernel.

        Each row of `x` becomes two rows in int8, the second of which is what the first rounds off,
        so that the product is as exact as if `x` had 16 bits. This costs nothing: XLA has a fast
        product in int8 on a CPU for two rows or more, and none for one.
        """
        rows, size = x.shape[: x.ndim - inputs], math.prod(x.shape[x.ndim - inputs :])
        x_rk = x.reshape(-1, size).astype(sum_dtype(x))
        step_r1 = _step(x_rk, (1,))
        coarse_rk = jnp.round(x_rk / step_r1)
        # What is left is at most half a step.
        fine_rk = jnp.round((x_rk / step_r1 - coarse_rk) * 2 * LARGEST)
        sums_rn = jax.lax.dot_general(
            jnp.concatenate([coarse_rk, fine_rk]).astype(jnp.int8),
            self.values.reshape(-1, size),
            (((1,), (1,)), ((), ())),
            preferred_element_type=jnp.int32,
        )
        coarse_rn, fine_rn = jnp.split(sums_rn.astype(x_rk.dtype), 2)
        y_rn = (coarse_rn + fine_rn / (2 * LARGEST)) * step_r1 * self.scales.reshape(-1)
        return y_rn.reshape(*rows, *self.scales.shape).astype(x.dtype)


def _step(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The step between two values of int8 that hold the largest of `x` over `axes`, which stay."""
    largest = jnp.abs(x).max(axis=axes, keepdims=True)
    return jnp.where(largest > 0, largest, 1) / LARGEST

"""Low-rank adapters (LoRA): fine-tuning that adds a product of two thin matrices to each kernel.

Each matrix in a kernel of the blocks becomes base + scale * A @ B, and the model sees only the sum.
A has the axes of the kernel without the outputs, B those without the inputs, and both have the rank
as their last axis.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.model.matrices import matrix_of
from jaxgpt.pytree import Tree, flatten, unflatten

A, B = "a", "b"


def adapters(params: Tree, rank: int) -> Tree:
    """Shapes and dtypes of the adapters of `params`."""
    flat: dict[str, Any] = {}
    for name, kernel in flatten(params).items():
        if matrix := matrix_of(name):
            for part, missing in ((A, matrix.outputs), (B, matrix.inputs)):
                shape = [n for axis, n in enumerate(kernel.shape) if axis not in missing]
                flat[f"{name}/{part}"] = jax.ShapeDtypeStruct((*shape, rank), jnp.float32)
    return unflatten(flat)


def init(params: Tree, rank: int, seed: int) -> Tree:
    """Initial adapters, which change nothing: A is random, with products of unit scale, and B
    zero."""
    key, shapes, flat = jax.random.key(seed), flatten(params), flatten(adapters(params, rank))
    for i, (name, like) in enumerate(sorted(flat.items())):
        if name.endswith(f"/{A}"):
            kernel = name.removesuffix(f"/{A}")
            matrix = matrix_of(kernel)
            assert matrix is not None
            inputs = math.prod(shapes[kernel].shape[axis] for axis in matrix.inputs)
            flat[name] = jax.random.normal(jax.random.fold_in(key, i), like.shape) / inputs**0.5
        else:
            flat[name] = jnp.zeros(like.shape)
    return unflatten(flat)


def merge(base: Tree, low_rank: Tree, scale: float) -> Tree:
    """The parameters `base` with the adapters `low_rank`, times `scale`, added to their kernels."""
    flat, parts = flatten(base), flatten(low_rank)
    for name in flat:
        if f"{name}/{A}" in parts:
            pair = parts[f"{name}/{A}"], parts[f"{name}/{B}"]
            flat[name] = merge_kernel(name, flat[name], pair, scale)
    return unflatten(flat)


def merge_kernel(name: str, kernel: Any, pair: tuple[Any, Any], scale: float) -> jax.Array:
    """The `kernel` called `name` with the product of its adapters, times `scale`."""
    matrix = matrix_of(name)
    assert matrix is not None
    letters = "abcdefgh"[: kernel.ndim]
    a, b = (
        "".join(letter for axis, letter in enumerate(letters) if axis not in missing)
        for missing in (matrix.outputs, matrix.inputs)
    )
    product = jnp.einsum(f"{a}z,{b}z->{letters}", *pair, precision="highest")
    return kernel + scale * product

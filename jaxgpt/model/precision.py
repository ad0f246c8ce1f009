"""The precision of a computation."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp


@contextlib.contextmanager
def exactly(dtype: jnp.dtype) -> Iterator[None]:
    """Context in which products have full precision on every device, and float64 is kept."""
    with jax.enable_x64(dtype == jnp.float64), jax.default_matmul_precision("highest"):
        yield


def cast(tree: Any, dtype: jnp.dtype | str) -> Any:
    """`tree` with every array of floats in `dtype`: parameters, or a model."""

    def to(leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(to, tree)


def sum_dtype(x: jax.Array) -> jnp.dtype:
    """The dtype for sums and exponentials of `x`: its own, but at least float32."""
    return jnp.promote_types(x.dtype, jnp.float32)


def dtype_of(tree: Any) -> jnp.dtype:
    """The widest dtype of the arrays in `tree`."""
    return functools.reduce(jnp.promote_types, {leaf.dtype for leaf in jax.tree.leaves(tree)})

"""Parameters that a class multiplies by a factor before it uses them: there and back."""

from dataclasses import replace

import numpy as np

from .axes import Sizes
from .kinds import Scaled
from .packed import pack, unpack


def factor(row: Scaled, sizes: Sizes) -> float:
    """The factor by which the class multiplies the parameter."""
    return float(sizes[row.by] ** -0.5)


def times(array: np.ndarray, by: float) -> np.ndarray:
    """`array` times `by`, rounded once, in its own dtype."""
    return (array.astype(np.float64) * by).astype(array.dtype)


def with_bits(row: Scaled, array: np.ndarray) -> Scaled:
    """The row with the bits of its tensor in a file, `array`."""
    return replace(row, dtype=str(array.dtype), shape=tuple(array.shape), bits=(pack(array),))


def undone(row: Scaled, array: np.ndarray, by: float) -> np.ndarray:
    """The tensor for the parameter `array`: that of the file, as long as it has this product."""
    if row.bits:
        original = unpack(row.bits[0], row.shape, row.dtype).astype(array.dtype)
        if np.array_equal(times(original, by), array):
            return original
    return times(array, 1 / by)

"""Axes that are counted in key heads, or cut into a number of equal parts, and their sizes."""

import functools
from collections.abc import Iterable, Mapping

from .strides import stride

Sizes = Mapping[str, int]


@functools.cache
def counted(axis: str) -> str:
    """The axis that counts the entries of `axis` in names and beside a label axis.

    Heads are counted by their keys and values, which several may share: `kv` counts `head`. Any
    other axis counts itself.
    """
    whole, cut, parts = axis.partition("/")
    own = stride(whole).axis
    return f"{'kv' if own == 'head' else own}{cut}{parts}"


def uncut(axes: Iterable[str]) -> tuple[str, ...]:
    """`axes` with those that are cut as one again: `4 kv/4` is `kv`."""
    return tuple(whole_of(axis) for axis in axes if not axis.isdigit())


def size_of(axis: str, sizes: Sizes) -> int:
    """The size of `axis`, which may be a number of parts or one part of another axis."""
    if axis.isdigit():
        return int(axis)
    whole, _, parts = axis.partition("/")
    return sizes[whole] // int(parts) if parts else sizes[whole]


def whole_of(axis: str) -> str:
    return axis.partition("/")[0]

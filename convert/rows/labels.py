"""Axes whose entries have labels instead of numbers, and places on the axes of a view."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from .cuts import Sizes

# Axes indexed by labels: each label in order, and the axis that only its part has.
LABELS: dict[str, dict[str, tuple[str, ...]]] = {
    "qkv": {"query": ("group",), "key": (), "value": ()},
    "q": {"query": ("group",)},  # of a tensor that holds queries alone
    "k_v": {"key": (), "value": ()},  # of one that holds keys and values
    "glu": {"gate": (), "up": ()},  # the two projections of a gated MLP
}
QKV = ("qkv", "q", "k_v")  # label axes that name the same parts
Place = Mapping[str, int]  # axis -> index, for the axes that are spread over names


def own_axes(axis: str, index: int) -> tuple[str, ...]:
    """The axis that only the part of the label `index` has."""
    return list(LABELS[axis].values())[index]


def with_labels(place: Place, axes: Sequence[str]) -> Iterator[Place]:
    """`place` with each combination of labels of the same parts on those of `axes` it lacks."""
    missing = tuple(dict.fromkeys(axis for axis in axes if axis not in place))
    for labels in every(missing, {}):
        combined = {**place, **labels}
        parts = {list(LABELS[axis])[combined[axis]] for axis in QKV if axis in combined}
        if len(parts) < 2:
            yield combined


def every(axes: tuple[str, ...], sizes: Sizes) -> Iterator[Place]:
    """All combinations of indices on `axes`, the last axis fastest."""
    ranges = [range(len(LABELS[axis]) if axis in LABELS else sizes[axis]) for axis in axes]
    for indices in itertools.product(*ranges):
        yield dict(zip(axes, indices, strict=True))

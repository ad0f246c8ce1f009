"""The order in which torch lists the tensors of a module."""

import itertools
import re
from collections.abc import Iterator

from .axes import Sizes, View
from .cuts import counted
from .dialect import Dialect
from .labels import LABELS, Place


def in_file_order(dialect: Dialect, sizes: Sizes) -> list[str]:
    """All names of the settled `dialect` in the order of its file, or else of its class."""
    names = in_module_order(list(dialect.tensors), sizes)
    return list(dialect.order) if sorted(dialect.order) == sorted(names) else names


def in_module_order(views: list[View], sizes: Sizes) -> list[str]:
    """All names of `views` in the order of torch's state_dict: depth first, views as listed."""
    return list(_walk([(view.name.split("."), view) for view in views], {}, sizes))


def _walk(branches: list[tuple[list[str], View]], place: Place, sizes: Sizes) -> Iterator[str]:
    heads = dict.fromkeys(path[0] for path, _ in branches if path)
    yield from (view.at(place) for path, view in branches if not path)
    for head in heads:
        below = [(path[1:], view) for path, view in branches if path and path[0] == head]
        axes = tuple(re.findall(r"{(\w+)}", head))
        for step in _spelled_order(axes, below[0][1], sizes):
            yield from _walk(below, {**place, **step}, sizes)


def _spelled_order(axes: tuple[str, ...], view: View, sizes: Sizes) -> Iterator[Place]:
    """The places on `axes`: numbers ascending, labels in the order of the view's spelling."""
    inner = tuple(map(counted, axes))
    ranges = [
        [list(LABELS[axis]).index(label) for label in view.words(axis)]
        if axis in LABELS
        else range(sizes[axis])
        for axis in inner
    ]
    for indices in itertools.product(*ranges):
        yield dict(zip(inner, indices, strict=True))

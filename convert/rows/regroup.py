"""Moving values from one view of an array to another: transposed, merged, split and stacked."""

import itertools
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from jaxgpt.errors import UserError

from .axes import Sizes, View
from .cuts import counted, uncut
from .labels import LABELS, Place, every, with_labels

COPIES = min(4, os.cpu_count() or 1)  # at a time
SMALL = 1 << 16  # numbers that are copied in less time than a thread is asked to
BLOCK = 64  # numbers on each side of what is transposed at a time
AXES = {  # for messages
    "d": "the width of the model", "kv": "the heads", "group": "the heads that share a key",
}  # fmt: skip


@dataclass(frozen=True)
class Heads:
    """An order of the elements in each head, for the parts of an array where `holds` is true."""

    order: np.ndarray | None  # None where source and target have the same
    holds: Callable[[Place], bool]


Put = Callable[[np.ndarray, np.ndarray], None]  # writes a source array into the target array


def move(
    source: View,
    target: View,
    sizes: Sizes,
    read: Callable[[str], np.ndarray],
    heads: Heads | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, array) for each array of `target`, newly allocated.

    `read` returns an array of `source` by name, and is called for one at a time. Several arrays
    are made at a time, and only a few before they are asked for.
    """
    reading = threading.Lock()

    def made(place: Place) -> tuple[str, np.ndarray]:
        array: np.ndarray | None = None
        for name, put in parts(source, target, sizes, place, heads):
            with reading:
                piece = read(name)
            if array is None:
                array = np.empty(target.shape(sizes, place), piece.dtype)
            put(piece, array)
        assert array is not None
        return target.at(place), array

    with ThreadPoolExecutor(COPIES) as threads:
        jobs: deque[Future[tuple[str, np.ndarray]]] = deque()
        for place in target.places(sizes):
            if not jobs and math.prod(target.shape(sizes, place)) < SMALL:
                yield made(place)
                continue
            jobs.append(threads.submit(made, place))
            if len(jobs) > COPIES:
                yield jobs.popleft().result()
        while jobs:
            yield jobs.popleft().result()


def parts(
    source: View, target: View, sizes: Sizes, place: Place, heads: Heads | None = None
) -> Iterator[tuple[str, Put]]:
    """Yield (name, put) for each array of `source` that holds values of `target` at `place`.

    `put(source_array, target_array)` writes those values into the target array. `heads` are the
    source elements of each head in the order of the target, where it differs.
    """
    spread = tuple(axis for axis in source.spread if axis not in place and axis not in LABELS)
    for rest in every(spread, sizes):
        for at in with_labels({**place, **rest}, (*source.labels, *target.labels)):

            def put(piece: np.ndarray, whole: np.ndarray, at: Place = at) -> None:
                values, axes = _at(*source.cut(piece, at, sizes), at)
                room, order = _at(*target.cut(whole, at, sizes), at)
                values, axes = _first(values, axes, order, source.at(at))
                if heads and heads.order is not None and heads.holds(at):
                    values = values.take(heads.order, axis=axes.index("k"))
                room, order = _without_lone(room, order, axes)
                values, axes = _repeated(values, axes, room, order)
                _copy(values.transpose([axes.index(axis) for axis in order]), room)

            yield source.at(at), put


def on_diagonal(view: View, array: np.ndarray, sizes: Sizes) -> np.ndarray:
    """`array`, which must be zero where an array of `view` is."""
    if view.diagonal:
        cuts = (view.cut(array, place, sizes)[0] for place in with_labels({}, view.labels))
        in_parts = sizes["j"] * sizes["kv"] * sizes["group"] == sizes["d"]
        if not in_parts or sum(map(np.count_nonzero, cuts)) < np.count_nonzero(array):
            raise UserError(
                f"{view.name}: its heads read all of the model's width, where each head of the "
                f"torch class reads its own {sizes['j']} elements of {sizes['d']}. Files of that "
                "class cannot hold it: name a class with full matrices with --dialect."
            )
    return array


def repeats(source: View, target: View) -> bool:
    """Whether `parts` writes one value of `source` to several places of `target`."""

    def axes(view: View) -> set[str]:
        named = {*view.spread, *map(counted, itertools.chain(*view.dims))} - LABELS.keys()
        return {*uncut(named)} - {"group"}

    return not axes(target) <= axes(source)


def _copy(values: np.ndarray, room: np.ndarray) -> None:
    """Copy `values` to `room`, of the same shape, by blocks that fit a core's cache.

    Where the two have different axes innermost, a plain copy would fetch most lines of memory once
    for each of their numbers: that takes six times as long.
    """
    if not values.size or not values.ndim:
        room[...] = values
        return
    innermost = [int(np.argmin(np.abs(array.strides))) for array in (values, room)]
    blocks = [range(0, values.shape[axis], BLOCK) for axis in dict.fromkeys(innermost)]
    if len(blocks) == 1:
        room[...] = values
        return
    for starts in itertools.product(*blocks):
        index = [slice(None)] * values.ndim
        for axis, start in zip(innermost, starts, strict=True):
            index[axis] = slice(start, start + BLOCK)
        room[tuple(index)] = values[tuple(index)]


def _at(array: np.ndarray, axes: list[str], place: Place) -> tuple[np.ndarray, list[str]]:
    """`array` at the indices of `place`, and the axes that are left."""
    index = tuple(place.get(axis, slice(None)) for axis in axes)
    return array[(*index, ...)], [axis for axis in axes if axis not in place]


def _without_lone(
    array: np.ndarray, axes: list[str], other: list[str]
) -> tuple[np.ndarray, list[str]]:
    """`array` without the axes of one entry that `other` lacks, such as a group of one head."""
    lone = [axis not in other and n == 1 for axis, n in zip(axes, array.shape, strict=True)]
    squeezed = array.squeeze(tuple(i for i, is_lone in enumerate(lone) if is_lone))
    return squeezed, [axis for axis, is_lone in zip(axes, lone, strict=True) if not is_lone]


def _repeated(
    array: np.ndarray, axes: list[str], like: np.ndarray, wanted: list[str]
) -> tuple[np.ndarray, list[str]]:
    """`array` with its values repeated along the axes that only `like` has.

    Examples are a norm with one number for its whole width, and a matrix that all heads share.
    """
    new = [axis for axis in wanted if axis not in axes]
    lengths = [like.shape[wanted.index(axis)] for axis in new]
    return np.broadcast_to(array, (*lengths, *array.shape)), [*new, *axes]


def _first(
    array: np.ndarray, axes: list[str], other: list[str], name: str
) -> tuple[np.ndarray, list[str]]:
    """`array` without the axes that `other` lacks, along which all its values must be equal."""
    lone = tuple(i for i, axis in enumerate(axes) if axis not in other)
    first = array[tuple(slice(0, 1) if i in lone else slice(None) for i in range(len(axes)))]
    if first.size < array.size and not np.array_equal(array, np.broadcast_to(first, array.shape)):
        along = " and ".join(AXES.get(axes[i], axes[i]) for i in lone)
        raise UserError(
            f"{name} has different values along {along}, where the torch class has one for all. "
            "Files of that class cannot hold it; name a class that has a value for each with "
            "--dialect, such as a newer version of the same class."
        )
    return first.squeeze(lone), [axis for axis in axes if axis in other]

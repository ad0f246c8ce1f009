"""Views of arrays with named axes; independent of files, dialects and models.

A view is a name and the axes of each dimension: `h.{layer}.attn.c_attn.weight : d (qkv head k)`.
An axis in braces is spread over names, one array for each of its values; axes in parentheses are
merged in one dimension.

The entries of some axes have labels instead of numbers: those of `qkv` are query, key and value.
Their parts may differ in size, because several query heads can share one key head: in the query
part `head` stands for the two axes `kv` and `group`, in the key and value parts for `kv` alone.
So `(qkv head k)` is all queries, then all keys, then all values, and `(head qkv k)` is the queries
of the first group, its key and its value, then those of the second.

An axis may be cut into a number of equal parts, which are an axis of their own: `4` and `head/4`
are `head` as 4 parts of a quarter of the heads each, and `(4 qkv head/4 k)` has the queries, keys
and values of the first quarter, then those of the second.

An array may have an axis twice: then it is zero wherever the two indices differ. In the kernel
`(head j) head qkv k` each head reads its own `j` elements of the input, and no others.
"""

import functools
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .compiled import compiled
from .cuts import Sizes, counted, size_of, whole_of
from .labels import LABELS, QKV, Place, every, own_axes, with_labels
from .strides import stride

Spelling = Mapping[str, Mapping[str, str]]  # label axis -> {label: its word}, in the class's order
Dims = tuple[tuple[str, ...], ...]


@functools.cache
def parse_dims(text: str) -> Dims:
    """The axes of each dimension: `d (head k)` -> (("d",), ("head", "k"))."""
    words = re.findall(r"\(([^)]*)\)|(\S+)", text)
    return tuple(tuple((merged or single).split()) for merged, single in words)


class Repeats(NamedTuple):
    """A dimension as `times` repeats of `length` entries; `part` is that of one label in each."""

    times: int
    length: int
    part: slice


@dataclass(frozen=True)
class View:
    """A set of arrays: a pattern of their names, and the axes merged in each dimension."""

    name: str
    dims: Dims
    spelling: Spelling = field(default_factory=dict, hash=False)

    @staticmethod
    def parse(text: str, spelling: Spelling | None = None) -> "View":
        """Parse `name : axes`; `spelling` gives the words of label axes in names."""
        name, _, dims = text.partition(" : ")
        return View(name.strip(), parse_dims(dims), spelling or {})

    @property
    def text(self) -> str:
        """The view as `parse` reads it."""
        return f"{self.name} : {self.formula}"

    @property
    def formula(self) -> str:
        """The axes of each dimension, as written in a row."""
        return " ".join(dim[0] if len(dim) == 1 else f"({' '.join(dim)})" for dim in self.dims)

    @functools.cached_property
    def spread(self) -> tuple[str, ...]:
        """The axes that are spread over names."""
        return tuple(counted(axis) for axis in re.findall(r"{(\w+)}", self.name))

    @functools.cached_property
    def diagonal(self) -> bool:
        """Whether an axis occurs twice, so that the array is zero off the diagonal of the two."""
        inner = list(itertools.chain(*self.dims))
        return len({*inner}) < len(inner)

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """The label axes of the view, in names or in dimensions."""
        axes = (*self.spread, *itertools.chain(*self.dims))
        return tuple(axis for axis in axes if axis in LABELS)

    def axes(self, place: Place) -> Dims:
        """The axes of each dimension in the part with the labels in `place`.

        The result has no label axis. `(head qkv k)` becomes `(kv group k)` for queries and `(kv k)`
        for keys and values; so does `(qkv head k)`. A view without `qkv` has `group` after `kv`.
        """
        labels = tuple(place[label] for label in self.labels)
        if labels not in self._axes:
            self._axes[labels] = self._axes_of(labels)
        return self._axes[labels]

    @functools.cached_property
    def _axes(self) -> dict[tuple[int, ...], Dims]:
        return {}

    def _axes_of(self, labels: Sequence[int]) -> Dims:
        own = [axis for label in zip(self.labels, labels, strict=True) for axis in own_axes(*label)]
        if not {*QKV} & {*self.labels}:
            own.append("group")
        inner = list(itertools.chain(*self.dims))
        heads = [i for i, axis in enumerate(inner) if whole_of(axis) == "head"]
        in_place = bool(heads) and bool({*QKV} & {*inner[heads[0] :]})
        at_label, at_head = (own, []) if in_place else ([], own)

        def expand(axis: str) -> list[str]:
            if axis in LABELS:
                return at_label
            return [counted(axis), *at_head] if whole_of(axis) == "head" else [axis]

        return tuple(tuple(itertools.chain(*map(expand, dim))) for dim in self.dims)

    def shape(self, sizes: Sizes, place: Place | None = None) -> tuple[int, ...]:
        """The shape of the array at `place`; only the labels in it matter."""
        return tuple(sum(widths) for widths in self._widths(sizes, place or {}))

    def _widths(self, sizes: Sizes, place: Place) -> list[list[int]]:
        """For each dimension, the lengths of the parts of its labels, or its one length."""
        widths = []
        for i, dim in enumerate(self.dims):
            labels = [axis for axis in dim if axis in LABELS]
            own = {a: n for a, n in place.items() if a in self.labels or a not in LABELS}
            rest = dict.fromkeys(self.labels, 0) | own
            places = with_labels({a: n for a, n in rest.items() if a not in labels}, labels)
            widths.append([_product(sizes, self.axes(each)[i]) for each in places])
        return widths

    def undivided(self, sizes: Sizes) -> list[str]:
        """The axes that `sizes` do not cut into equal parts, as the view needs them."""
        cut = [counted(axis).split("/") for axis in itertools.chain(*self.dims) if "/" in axis]
        return [
            f"{sizes[axis]} of {axis} do not divide into {parts} parts"
            for axis, parts in cut
            if axis in sizes and sizes[axis] % int(parts)
        ]

    def size(self, sizes: Sizes) -> int:
        """The number of elements in all arrays of the view."""
        return sum(math.prod(self.shape(sizes, place)) for place in self.places(sizes))

    def match(self, name: str) -> Place | None:
        """The indices on the spread axes in `name`; None if `name` is not one of this view."""
        match = self._pattern.fullmatch(name)
        if match is None:
            return None
        place = {axis: self._index(axis, word) for axis, word in match.groupdict().items()}
        if None in place.values():
            return None
        return {counted(axis): index for axis, index in place.items() if index is not None}

    def at(self, place: Place) -> str:
        """The name of the array at `place`."""
        return "".join(
            self._word(part, place[counted(part)]) if i % 2 else part
            for i, part in enumerate(self._name_parts)
        )

    @functools.cached_property
    def _name_parts(self) -> list[str]:
        """The texts of the name, and between each two of them an axis."""
        return re.split(r"{(\w+)}", self.name)

    def places(self, sizes: Sizes) -> Iterator[Place]:
        """The place of each array of the view."""
        return every(self.spread, sizes)

    def cut(self, array: np.ndarray, place: Place, sizes: Sizes) -> tuple[np.ndarray, list[str]]:
        """The part of `array` with the labels in `place`, one dimension for each of its axes.

        The part shares the memory of `array`. Of an axis that occurs twice it is the diagonal.

        Example: `(head qkv k) d` of shape (50, 30), for 2 groups of 3 query heads of width 5. The
        rows repeat twice, once for each group: 15 of queries, 5 of its key, 5 of its value. For the
        key, the array is reshaped to (2, 25, 1, 30) and rows 15 to 20 of the 25 are taken, which
        gives the shape (2, 5, 30) with the axes kv, k, d.
        """
        repeats = [self._repeats(i, place, sizes) for i in range(len(self.dims))]
        shape = [length for each in repeats for length in (each.times, each.length)]
        index = [one for each in repeats for one in (slice(None), each.part)]
        axes = list(itertools.chain(*self.axes(place)))
        part = array.reshape(shape)[tuple(index)].reshape([size_of(axis, sizes) for axis in axes])
        if not self.diagonal:
            return part, axes
        different = list(dict.fromkeys(axes))
        numbers = range(len(different))
        return np.einsum(part, [different.index(axis) for axis in axes], [*numbers]), different

    def _repeats(self, i: int, place: Place, sizes: Sizes) -> "Repeats":
        """Dimension `i` as repeats of its labels, for the label in `place`.

        A dimension without labels is one repeat, and all of it is taken.
        """
        dim, lengths = self.dims[i], self._widths(sizes, place)[i]
        axis = next((axis for axis in dim if axis in LABELS), None)
        if axis is None:
            return Repeats(1, sum(lengths), slice(None))
        count = _product(sizes, map(counted, dim[: dim.index(axis)]))
        of_label = {
            label: length // count for label, length in zip(LABELS[axis], lengths, strict=True)
        }
        wanted = list(LABELS[axis])[place[axis]]
        before = itertools.takewhile(lambda label: label != wanted, self.words(axis))
        start = sum(of_label[label] for label in before)
        part = slice(start, start + of_label[wanted])
        return Repeats(count, sum(of_label.values()), part)

    def words(self, axis: str) -> Mapping[str, str]:
        """Label -> its word in names, in the order of the class."""
        return self.spelling.get(axis) or {label: label for label in LABELS[axis]}

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str]:
        named = [axis for axis in re.findall(r"{(\w+)}", self.name) if axis in LABELS]
        return compiled(self.name, tuple((axis, *self.words(axis).values()) for axis in named))

    def _index(self, axis: str, word: str) -> int | None:
        if axis not in LABELS:
            return stride(axis).member(int(word))
        label = next(label for label, spelled in self.words(axis).items() if spelled == word)
        return list(LABELS[axis]).index(label)

    def _word(self, axis: str, index: int) -> str:
        return (
            self.words(axis)[list(LABELS[axis])[index]]
            if axis in LABELS
            else str(stride(axis).number(index))
        )


def _product(sizes: Sizes, axes: Iterable[str]) -> int:
    return math.prod(size_of(axis, sizes) for axis in axes)

"""Views of arrays with named axes, and moving values from one view to another.

A view is a name and the axes of each dimension: `h.{layer}.attn.c_attn.weight : d (qkv head k)`.
An axis in braces is spread over names, one array for each of its values; axes in parentheses are
merged in one dimension. Independent of files, dialects and models.
"""

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import einops
import numpy as np

# Axes indexed by names instead of numbers, in their order within a merged dimension.
LABELS = {"qkv": ("query", "key", "value")}

Sizes = Mapping[str, int]
Place = dict[str, int]  # axis -> index, for the axes that are spread over names
Put = Callable[[np.ndarray, np.ndarray], None]  # writes a source array into the target array


@dataclass(frozen=True)
class View:
    """A set of arrays: a pattern of their names, and the axes merged in each dimension."""

    name: str
    dims: tuple[tuple[str, ...], ...]
    spelling: Mapping[str, Mapping[str, str]] = field(default_factory=dict, hash=False)

    @staticmethod
    def parse(text: str, spelling: Mapping[str, Mapping[str, str]] | None = None) -> "View":
        """Parse `name : axes`.

        `spelling` maps each labelled axis to {label: its word in names}, in the file's order.
        """
        name, dims = (part.strip() for part in text.partition(" : ")[::2])
        words = re.findall(r"\(([^)]*)\)|(\S+)", dims)
        return View(
            name,
            tuple(tuple((merged or single).split()) for merged, single in words),
            spelling or {},
        )

    @property
    def spread(self) -> tuple[str, ...]:
        return tuple(re.findall(r"{(\w+)}", self.name))

    @property
    def inner(self) -> tuple[str, ...]:
        return tuple(itertools.chain.from_iterable(self.dims))

    @property
    def formula(self) -> str:
        return " ".join(dim[0] if len(dim) == 1 else f"({' '.join(dim)})" for dim in self.dims)

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        return tuple(math.prod(sizes[axis] for axis in dim) for dim in self.dims)

    def size(self, sizes: Sizes) -> int:
        """The number of elements in all arrays of the view."""
        return math.prod(sizes[axis] for axis in (*self.spread, *self.inner))

    def match(self, name: str) -> Place | None:
        """The indices on the spread axes in `name`; None if `name` is not one of this view."""
        found = self._pattern.fullmatch(name)
        return found and {axis: self._index(axis, word) for axis, word in found.groupdict().items()}

    def at(self, place: Place) -> str:
        """The name of the array at `place`."""
        return re.sub(r"{(\w+)}", lambda m: self._word(m[1], place[m[1]]), self.name)

    def places(self, sizes: Sizes) -> Iterator[Place]:
        return every(self.spread, sizes)

    def _words(self, axis: str) -> dict[str, str]:
        return dict(self.spelling.get(axis) or {label: label for label in LABELS[axis]})

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str]:
        def group(axis: str) -> str:
            words = (
                "|".join(map(re.escape, self._words(axis).values()))
                if axis in LABELS
                else "0|[1-9][0-9]{0,8}"
            )
            return f"(?P<{axis}>{words})"

        parts = re.split(r"{(\w+)}", self.name)
        return re.compile(
            "".join(group(part) if i % 2 else re.escape(part) for i, part in enumerate(parts))
        )

    def _index(self, axis: str, word: str) -> int:
        if axis not in LABELS:
            return int(word)
        return LABELS[axis].index(
            next(label for label, spelled in self._words(axis).items() if spelled == word)
        )

    def _word(self, axis: str, index: int) -> str:
        return self._words(axis)[LABELS[axis][index]] if axis in LABELS else str(index)


def every(axes: tuple[str, ...], sizes: Sizes) -> Iterator[Place]:
    """All combinations of indices on `axes`, the last axis fastest."""
    for indices in itertools.product(*(range(sizes[axis]) for axis in axes)):
        yield dict(zip(axes, indices, strict=True))


def move(
    source: View, target: View, sizes: Sizes, read: Callable[[str], np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, array) for each array of `target`, newly allocated.

    `read` returns an array of `source` by name, and is called for one at a time.
    """
    for place in target.places(sizes):
        yield target.at(place), _gather(source, target, sizes, place, read)


def _gather(
    source: View, target: View, sizes: Sizes, place: Place, read: Callable[[str], np.ndarray]
) -> np.ndarray:
    made = None
    for name, put in parts(source, target, sizes, place):
        piece = read(name)
        made = np.empty(target.shape(sizes), piece.dtype) if made is None else made
        put(piece, made)
    assert made is not None
    return made


def parts(source: View, target: View, sizes: Sizes, place: Place) -> Iterator[tuple[str, Put]]:
    """Yield (name, put) for each array of `source` that holds values of `target` at `place`.

    `put(source_array, target_array)` writes those values into the target array.
    """
    # Spread in the target, but a dimension of the source.
    chosen = [axis for axis in source.inner if axis in place]
    shared = [axis for axis in target.inner if axis in source.inner]
    pattern = f"{source.formula} -> {' '.join(chosen + shared)}"
    lengths = {axis: sizes[axis] for axis in source.inner}
    for rest in every(tuple(axis for axis in source.spread if axis not in place), sizes):

        def put(piece: np.ndarray, whole: np.ndarray, rest: Place = rest) -> None:
            piece = einops.rearrange(piece, pattern, **lengths)[
                tuple(place[axis] for axis in chosen)
            ]
            unmerged = whole.reshape([sizes[axis] for axis in target.inner])  # shares memory
            unmerged[tuple(rest.get(axis, slice(None)) for axis in target.inner)] = piece

        yield source.at({**place, **rest}), put


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
    ranges = [
        [LABELS[axis].index(label) for label in view._words(axis)]
        if axis in LABELS
        else range(sizes[axis])
        for axis in axes
    ]
    for indices in itertools.product(*ranges):
        yield dict(zip(axes, indices, strict=True))

"""Fits the rows of a dialect to a file: axis sizes, missing and unknown names, wrong shapes.

Works on names and shapes alone; independent of file formats.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .axes import LABELS, Place, Sizes, View
from .dialect import Dialect, Ignore
from .resolve import pattern

Shape = tuple[int, ...]
LABEL_SIZES = {axis: len(labels) for axis, labels in LABELS.items()}


@dataclass(frozen=True)
class Fit:
    """A dialect fitted to the tensors of a file; `problems` is empty if it explains all of them."""

    dialect: Dialect
    sizes: Sizes
    claimed: int  # number of names that exactly one row matches
    problems: list[str]
    stated: frozenset[str] = frozenset()  # axes whose sizes the caller gave and no name shows

    @property
    def lacking(self) -> bool:
        """Whether tensors are missing, with no unknown ones in their place."""
        return any("is missing" in problem for problem in self.problems) and not any(
            "is unknown" in problem for problem in self.problems
        )


def fit(dialect: Dialect, shapes: Mapping[str, Shape], known: Sizes | None = None) -> Fit:
    """Fit `dialect`, settled for this file, to `shapes` (tensor name -> shape).

    `known` gives the sizes of axes that no name counts.
    """
    ignored = [
        pattern(row.torch, dialect.qkv)[0] for row in dialect.rows if isinstance(row, Ignore)
    ]
    shapes = {
        name: shape
        for name, shape in shapes.items()
        if not any(regex.fullmatch(name) for regex in ignored)
    }
    claims = {name: _claims(dialect, name) for name in shapes}
    problems = [f"{name} is unknown" for name, matches in claims.items() if not matches]
    problems += [
        f"{name} is claimed by {len(matches)} rows"
        for name, matches in claims.items()
        if len(matches) > 1
    ]
    claimed = {name: matches[0] for name, matches in claims.items() if len(matches) == 1}
    counts: Counter[str] = Counter(LABEL_SIZES)
    for _, place in claimed.values():
        for axis, index in place.items():
            counts[axis] = max(counts[axis], index + 1)
    views = dialect.tensors
    # A name such as `blocks.999999999` must not allocate a billion expected names.
    total = sum(math.prod(counts.get(axis, 0) for axis in view.spread) for view in views)
    if total > 16 * len(shapes) + 1024:
        numbered = ", ".join(
            f"{axis} up to {n - 1}" for axis, n in counts.items() if axis not in LABELS
        )
        problems.append(f"its names number {numbered}, which makes {total} tensors")
        return Fit(dialect, counts, len(claimed), problems)
    expected = {
        view.at(place): view for view in views for place in view.places(defaultdict(int, counts))
    }
    problems += [
        f"{view.name} is missing"
        for view in views
        if not all(counts.get(axis) for axis in view.spread)
    ]
    tensors = [(view.dims, shapes[name]) for name, (view, _) in claimed.items()]
    sizes = _solve(tensors, {**(known or {}), **counts})
    for name, view in expected.items():
        if name not in shapes:
            problems.append(f"{name} is missing ({_wanted(view, sizes)})")
        elif sizes.keys() >= set(view.inner) and shapes[name] != view.shape(sizes):
            problems.append(f"{name} is {shapes[name]}, expected {_wanted(view, sizes)}")
        elif len(shapes[name]) != len(view.dims):
            problems.append(f"{name} is {shapes[name]}, expected {view.formula}")
    return Fit(dialect, sizes, len(claimed), problems, frozenset(known or {}) - counts.keys())


def joint_width(dialect: Dialect, shapes: Mapping[str, Shape], sizes: Sizes) -> int | None:
    """The width of all heads together, where no tensor shows their number; otherwise None."""
    for view in dialect.tensors:
        for name in filter(shapes.__contains__, (view.at(place) for place in view.places(sizes))):
            for dim, length in zip(view.dims, shapes[name], strict=True):
                if {axis for axis in dim if axis not in sizes} == {"head", "k"}:
                    return length // math.prod(sizes[axis] for axis in dim if axis in sizes)
    return None


def _claims(dialect: Dialect, name: str) -> list[tuple[View, Place]]:
    places = ((view, view.match(name)) for view in dialect.tensors)
    return [(view, place) for view, place in places if place is not None]


def _solve(
    tensors: list[tuple[tuple[tuple[str, ...], ...], Shape]], counts: Sizes
) -> dict[str, int]:
    """The axis sizes that most shapes imply, so that one wrong shape is reported alone."""
    sizes = dict(counts)
    while True:
        votes: defaultdict[str, Counter[int]] = defaultdict(Counter)
        for dims, shape in tensors:
            for dim, length in zip(dims, shape, strict=False):
                unknown = [axis for axis in dim if axis not in sizes]
                known = math.prod(sizes[axis] for axis in dim if axis in sizes)
                if len(unknown) == 1 and known and length % known == 0:
                    votes[unknown[0]][length // known] += 1
        if not votes:
            return sizes
        sizes |= {axis: tally.most_common(1)[0][0] for axis, tally in votes.items()}


def _wanted(view: View, sizes: Sizes) -> str:
    return (
        f"{view.formula} = {view.shape(sizes)}" if sizes.keys() >= set(view.inner) else view.formula
    )


def parameter_rows(dialect: Dialect, sizes: Sizes) -> Iterator[str]:
    """The Flax paths of the parameters, in the order of the dialect."""
    for flax, _ in dialect.views:
        yield from (flax.at(place) for place in flax.places(sizes))


def torch_names(dialect: Dialect, sizes: Sizes) -> set[str]:
    """The torch names of the parameters, without masks."""
    return {view.at(place) for _, view in dialect.views for place in view.places(sizes)}


def meanings(dialect: Dialect, sizes: Sizes) -> dict[str, tuple[str, int | None, str]]:
    """Torch name -> (Flax path, index on the qkv axis, order of torch axes).

    Two dialects with equal meanings read a file in the same way.
    """
    return {
        torch.at(place): (flax.at(place), place.get("qkv"), torch.formula)
        for flax, torch in dialect.views
        for place in torch.places(sizes)
    }

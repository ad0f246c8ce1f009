"""Fits the rows of a dialect to a file: axis sizes, missing and unknown names, wrong shapes.

Works on names and shapes alone; independent of file formats.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from .axes import Sizes, View
from .cuts import counted, uncut
from .dialect import Dialect, is_ignored
from .labels import LABELS, Place
from .solve import Equation, label_sizes, rests, solve

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Fit:
    """A dialect fitted to the tensors of a file; `problems` is empty if it explains all of them."""

    dialect: Dialect
    sizes: Sizes
    claimed: int  # number of names that exactly one row matches
    problems: list[str]
    stated: frozenset[str] = frozenset()  # axes whose sizes the caller gave and no name shows
    absent: frozenset[str] = frozenset()  # the torch views of which a tensor is missing

    @property
    def lacking(self) -> bool:
        """Whether tensors are missing, and nothing else is wrong."""
        missing = ["is missing" in problem for problem in self.problems]
        return bool(missing) and all(missing)


def fit(dialect: Dialect, shapes: Mapping[str, Shape], known: Sizes | None = None) -> Fit:
    """Fit `dialect`, settled for this file, to `shapes` (tensor name -> shape).

    `known` gives the sizes of axes that no name counts.
    """
    ignored = [row.torch for row in dialect.rows if is_ignored(row)]
    shapes = {
        name: shape
        for name, shape in shapes.items()
        if not any(pattern.match(name) for pattern in ignored)
    }
    claims = {name: _claims(dialect, name) for name in shapes}
    problems = [f"{name} is unknown" for name, matches in claims.items() if not matches]
    problems += [
        f"{name} is claimed by {len(matches)} rows"
        for name, matches in claims.items()
        if len(matches) > 1
    ]
    claimed = {name: matches[0] for name, matches in claims.items() if len(matches) == 1}
    counts: Counter[str] = Counter()
    for _, place in claimed.values():
        for axis in place.keys() - LABELS.keys():
            counts[axis] = max(counts[axis], place[axis] + 1)
    views = dialect.tensors
    # A name such as `blocks.999999999` must not allocate a billion expected names.
    total = sum(math.prod(_count(axis, counts) for axis in view.spread) for view in views)
    if total > 16 * len(shapes) + 1024:
        numbered = ", ".join(f"{axis} up to {n - 1}" for axis, n in counts.items())
        problems.append(f"its names number {numbered}, which makes {total} tensors")
        return Fit(dialect, counts, len(claimed), problems)
    absent = {view.name for view in views if not all(_count(axis, counts) for axis in view.spread)}
    problems += [f"{view.name} is missing" for view in views if view.name in absent]
    equations = _equations(claimed, shapes)
    in_parts = any(flax.diagonal for flax, _ in dialect.views)
    if in_parts:  # the parts of the input that the heads read make up the width of the model
        equations += [(("kv", "group", "j"), n) for axes, n in equations if axes == ("d",)]
    sizes = solve(equations, {**(known or {}), **counts})
    if in_parts and sizes.get("j") == sizes.get("d"):
        problems.append("its matrices are as wide as the model, not one small matrix for all heads")
    problems += _contradictions(claimed, shapes, sizes)
    for view in views:
        problems += [f"{view.name}: {problem}" for problem in view.undivided(sizes)]
        for name, problem in _problems(view, view.places(defaultdict(int, counts)), shapes, sizes):
            problems.append(problem)
            if name not in shapes:
                absent.add(view.name)
    counted_axes = {*counts, *(["head"] if "kv" in counts else [])}
    stated = frozenset(known or {}) - counted_axes
    return Fit(dialect, sizes, len(claimed), problems, stated, frozenset(absent))


def _problems(
    view: View, places: Iterable[Place], shapes: Mapping[str, Shape], sizes: Sizes
) -> Iterator[tuple[str, str]]:
    """The name and the problem of each tensor of `view` at `places` that has one."""
    wanted: dict[tuple[int | None, ...], Shape | None] = {}  # by labels, which alone matter
    for place in places:
        labels = tuple(place.get(label) for label in view.labels)
        if labels not in wanted:
            wanted[labels] = _wanted(view, place, sizes)
        name, shape = view.at(place), wanted[labels]
        formula = view.formula if shape is None else f"{view.formula} = {shape}"
        if name not in shapes:
            yield name, f"{name} is missing ({formula})"
        elif len(shapes[name]) != len(view.dims) or shape not in (None, shapes[name]):
            yield name, f"{name} is {shapes[name]}, expected {formula}"


def _wanted(view: View, place: Place, sizes: Sizes) -> Shape | None:
    """The shape of the tensor at `place`; None if nothing shows the size of one of its axes."""
    try:
        return view.shape(sizes, place)
    except KeyError:
        return None


def _contradictions(
    claimed: Mapping[str, tuple[View, Place]], shapes: Mapping[str, Shape], sizes: Sizes
) -> list[str]:
    """The problems with axes of unknown sizes whose product differs from tensor to tensor.

    Example: with H heads of unknown width k, queries of 48 rows and an output of 40 columns.
    """
    first: dict[frozenset[str], tuple[str, int]] = {}
    problems = []
    for name in claimed:
        for (unknown, length), _ in rests(_equations({name: claimed[name]}, shapes), sizes).items():
            other, expected = first.setdefault(unknown, (name, length))
            if unknown and length != expected:
                axes = " ".join(sorted(unknown))
                problems.append(f"{name} has ({axes}) = {length}, but {other} {expected}")
    return problems


def joint_width(dialect: Dialect, shapes: Mapping[str, Shape], sizes: Sizes) -> int | None:
    """The width of all heads together, where no tensor shows their number; otherwise None."""
    claims = {name: _claims(dialect, name) for name in shapes}
    claimed = {name: matches[0] for name, matches in claims.items() if len(matches) == 1}
    for axes, length in _equations(claimed, shapes):
        if {axis for axis in axes if axis not in sizes} - LABELS.keys() == {"kv", "k"}:
            known = {**sizes, **label_sizes(sizes)}
            rest = math.prod(known[axis] for axis in axes if axis in known)
            if length % rest == 0:
                return length // rest
    return None


def _claims(dialect: Dialect, name: str) -> list[tuple[View, Place]]:
    places = ((view, view.match(name)) for view in dialect.tensors)
    return [(view, place) for view, place in places if place is not None]


def _count(axis: str, counts: Sizes) -> int:
    return len(LABELS[axis]) if axis in LABELS else counts.get(axis, 0)


def _equations(
    claimed: Mapping[str, tuple[View, Place]], shapes: Mapping[str, Shape]
) -> list[Equation]:
    """The equation of each dimension: its length is the product of the sizes of its axes.

    A label axis of several parts stands for all of them: the queries, keys and values of a group.
    """
    equations = []
    for name, (view, place) in claimed.items():
        inner = view.axes({**dict.fromkeys(view.labels, 0), **place})
        for dim, axes, length in zip(view.dims, inner, shapes[name], strict=False):
            labelled = any(len(LABELS.get(axis, ())) > 1 for axis in dim)
            equations.append((uncut(map(counted, dim) if labelled else axes), length))
    return equations


def parameter_rows(dialect: Dialect, sizes: Sizes) -> Iterator[str]:
    """The Flax paths of the parameters, in the order of the dialect."""
    for flax, _ in dialect.views:
        yield from (flax.at(place) for place in flax.places(sizes))


def torch_names(dialect: Dialect, sizes: Sizes) -> set[str]:
    """The torch names of the parameters, without buffers."""
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

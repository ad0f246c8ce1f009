"""Fits the rows of a dialect to a file: axis sizes, missing and unknown names, wrong shapes.

Works on names and shapes alone; independent of file formats.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .axes import LABELS, Place, Sizes, View
from .cuts import counted, uncut
from .dialect import Dialect, is_ignored

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
    sizes = solve(_equations(claimed, shapes), {**(known or {}), **counts})
    for view in views:
        problems += [f"{view.name}: {problem}" for problem in view.undivided(sizes)]
        for place in view.places(defaultdict(int, counts)):
            problems += _problems(view, place, shapes, sizes)
            if view.at(place) not in shapes:
                absent.add(view.name)
    counted_axes = {*counts, *(["head"] if "kv" in counts else [])}
    stated = frozenset(known or {}) - counted_axes
    return Fit(dialect, sizes, len(claimed), problems, stated, frozenset(absent))


def _problems(view: View, place: Place, shapes: Mapping[str, Shape], sizes: Sizes) -> list[str]:
    """The problem with the tensor of `view` at `place`, if there is one."""
    name = view.at(place)
    try:
        shape = view.shape(sizes, place)
        wanted = f"{view.formula} = {shape}"
    except KeyError:  # nothing shows the size of one of its axes
        shape, wanted = shapes.get(name, ()), view.formula
    if name not in shapes:
        return [f"{name} is missing ({wanted})"]
    if shapes[name] != shape or len(shape) != len(view.dims):
        return [f"{name} is {shapes[name]}, expected {wanted}"]
    return []


def joint_width(dialect: Dialect, shapes: Mapping[str, Shape], sizes: Sizes) -> int | None:
    """The width of all heads together, where no tensor shows their number; otherwise None."""
    claims = {name: _claims(dialect, name) for name in shapes}
    claimed = {name: matches[0] for name, matches in claims.items() if len(matches) == 1}
    for axes, length in _equations(claimed, shapes):
        if {axis for axis in axes if axis not in sizes} - LABELS.keys() == {"kv", "k"}:
            known = {**sizes, **_label_sizes(sizes)}
            return length // math.prod(known[axis] for axis in axes if axis in known)
    return None


def _claims(dialect: Dialect, name: str) -> list[tuple[View, Place]]:
    places = ((view, view.match(name)) for view in dialect.tensors)
    return [(view, place) for view, place in places if place is not None]


def _count(axis: str, counts: Sizes) -> int:
    return len(LABELS[axis]) if axis in LABELS else counts.get(axis, 0)


Equation = tuple[tuple[str, ...], int]  # the axes of a dimension, and its length
Rest = tuple[frozenset[str], int]  # the axes of unknown size in an equation, and their product
Votes = defaultdict[str, Counter[int]]  # axis -> each size for it, and the equations that imply it


def _equations(
    claimed: Mapping[str, tuple[View, Place]], shapes: Mapping[str, Shape]
) -> list[Equation]:
    """The equation of each dimension: its length is the product of the sizes of its axes.

    A label axis stands for all its parts together: the queries, keys and values of a group.
    """
    equations = []
    for name, (view, place) in claimed.items():
        inner = view.axes({**dict.fromkeys(view.labels, 0), **place})
        for dim, axes, length in zip(view.dims, inner, shapes[name], strict=False):
            labelled = any(axis in LABELS for axis in dim)
            equations.append((uncut(map(counted, dim) if labelled else axes), length))
    return equations


def solve(equations: list[Equation], known: Sizes) -> dict[str, int]:
    """The axis sizes that most equations imply, so that one wrong shape is reported alone.

    `known` may hold `head`, the number of query heads. Heads are not grouped unless shapes show it.

    Example: the matrix `d (qkv head k)` of shape (12, 36), and 3 heads. The equations are d = 12,
    qkv * kv * k = 36, kv * group = 3. The rounds give d = 12; nothing, so that group = 1 is tried,
    with which there are qkv = 3 entries for each head; kv = 3; k = 36 / (3 * 3) = 4.
    """
    sizes = {axis: n for axis, n in known.items() if axis != "head"}
    if "head" in known:  # as often as there are shapes, so that none of them outvotes it
        equations = [*equations, *[(("kv", "group"), known["head"])] * len(equations)]
    while True:
        implied = _implied(equations, sizes)
        if not implied and "group" not in sizes:
            implied = {"group": 1}
        if not implied:
            return sizes
        sizes |= implied


def _implied(equations: list[Equation], sizes: Sizes) -> dict[str, int]:
    """The sizes that follow from the equations with `sizes`; of an axis, that with most votes."""
    rests = _rests(equations, sizes)
    votes = _votes(rests) or _votes_of_pairs(rests)
    return {axis: tally.most_common(1)[0][0] for axis, tally in votes.items()}


def _rests(equations: list[Equation], sizes: Sizes) -> Counter[Rest]:
    """Each equation divided by the sizes that are known: the number of those that leave each rest.

    Leaves out those of which the length is no multiple: one of their numbers is wrong.
    """
    known = {**sizes, **_label_sizes(sizes)}
    rests: Counter[Rest] = Counter()
    for axes, length in equations:
        divisor = math.prod(known[axis] for axis in axes if axis in known)
        if divisor and length % divisor == 0:
            unknown = frozenset(axis for axis in axes if axis not in known)
            rests[unknown, length // divisor] += 1
    return rests


def _votes(rests: Counter[Rest]) -> Votes:
    """The votes of equations in which one axis is left: kv = 3."""
    votes: Votes = defaultdict(Counter)
    for (unknown, length), count in rests.items():
        if len(unknown) == 1:
            votes[min(unknown)][length] += count
    return votes


def _votes_of_pairs(rests: Counter[Rest]) -> Votes:
    """The votes of two equations that differ in one axis.

    Such are those of queries and keys: kv * group * k = 30 and kv * k = 10 give group = 3.
    """
    votes: Votes = defaultdict(Counter)
    for ((more, length), count), ((fewer, divisor), times) in itertools.product(
        rests.items(), repeat=2
    ):
        added = more - fewer
        if fewer < more and len(added) == 1 and divisor and length % divisor == 0:
            votes[min(added)][length // divisor] += min(count, times)
    return votes


def _label_sizes(sizes: Sizes) -> dict[str, int]:
    """The number of entries on each label axis, where the sizes of its parts are known."""
    return {
        axis: sum(math.prod(sizes[each] for each in own) for own in labels.values())
        for axis, labels in LABELS.items()
        if all(each in sizes for own in labels.values() for each in own)
    }


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

"""Finds the number in the parameters of a torch module for each number in those of a JAX function.

Numbers correspond if their values are equal, even if arrays are transposed, reshaped, stacked,
split or fused. Among numbers with equal values, such as the ones in norms, the gradients decide;
what these leave open is decided by the names.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxgpt.errors import UserError, instead_of

from .by_names import matched

Arrays = Mapping[str, np.ndarray]
Names = Mapping[str, str | Sequence[str]]  # name in torch -> one or several paths in JAX
ROUNDING = 1e-9  # tolerance of a gradient, relative to itself
FLOOR = 1e-11  # tolerance of a gradient, relative to the largest one
NONE = -1


@dataclass(frozen=True)
class Side:
    """Arrays, concatenated to one vector of numbers, and the gradient of each number."""

    arrays: Arrays
    gradients: Arrays  # by the same names; may be incomplete

    @property
    def names(self) -> list[str]:
        return list(self.arrays)

    @property
    def values(self) -> np.ndarray:
        return laid_out(self.arrays)

    @property
    def slopes(self) -> np.ndarray:
        zeros = {name: np.zeros(array.shape) for name, array in self.arrays.items()}
        return laid_out({**zeros, **self.gradients})

    @property
    def owners(self) -> np.ndarray:
        """The index of the array that each number belongs to."""
        return np.repeat(np.arange(len(self.arrays)), [x.size for x in self.arrays.values()])


def laid_out(arrays: Arrays) -> np.ndarray:
    """The numbers of all `arrays`, one after the other."""
    return np.concatenate([np.zeros(0), *(np.ravel(array) for array in arrays.values())])


@dataclass(frozen=True)
class Part:
    """The numbers that an array in torch and one in JAX have in common."""

    torch: str
    jax: str
    in_torch: np.ndarray  # flat indices into the array
    in_jax: np.ndarray


@dataclass(frozen=True)
class Correspondence:
    """The parts of all arrays, and the arrays with numbers that the other side lacks."""

    parts: list[Part]
    only_torch: list[str]
    only_jax: list[str]

    @property
    def names(self) -> dict[str, list[str]]:
        """The paths in JAX of each name in torch, without those that share only a few numbers."""
        names: dict[str, list[str]] = {}
        largest: dict[str, int] = {}
        for part in self.parts:
            largest[part.torch] = max(largest.get(part.torch, 0), part.in_torch.size)
        for part in self.parts:
            if 100 * part.in_torch.size >= largest[part.torch]:
                names.setdefault(part.torch, []).append(part.jax)
        return names


def correspondence(torch: Side, jax: Side, names: Names) -> Correspondence:
    """Match the numbers of both sides; arrays in `names` are matched only with each other."""
    places = _places(torch, jax, names)
    parts = list(_parts(torch, jax, places))
    taken = np.zeros(len(torch.values), bool)
    taken[places[places != NONE]] = True
    return Correspondence(
        parts,
        [torch.names[i] for i in np.unique(torch.owners[~taken])],
        [jax.names[i] for i in np.unique(jax.owners[places == NONE])],
    )


def _places(torch: Side, jax: Side, names: Names) -> np.ndarray:
    """The index in torch of each number in JAX, or NONE."""
    groups = _groups(torch.names, jax.names, names)
    values = torch.values, jax.values
    _, ranks = np.unique(np.concatenate(values), return_inverse=True)
    keys = (
        ranks[: len(values[0])] * len(groups[0]) + groups[0][torch.owners],
        ranks[len(values[0]) :] * len(groups[0]) + groups[1][jax.owners],
    )
    raw = torch.slopes, jax.slopes
    floor = FLOOR * max(float(np.abs(slope).max(initial=0)) for slope in raw)
    # Gradients that are mere rounding, as of the bias of keys, are matched in order.
    slopes = tuple(np.where(np.abs(slope) <= floor, 0, slope) for slope in raw)
    # Indices sorted by key, then by gradient, then in their original order.
    sorted_places = [np.lexsort((slopes[i], keys[i])) for i in (0, 1)]
    sorted_keys = [keys[i][sorted_places[i]] for i in (0, 1)]
    places = np.full(len(values[1]), NONE)
    wanted, starts = np.unique(sorted_keys[1], return_index=True)
    ends = np.append(starts[1:], len(sorted_keys[1]))
    lows, highs = (np.searchsorted(sorted_keys[0], wanted, side) for side in ("left", "right"))
    single = (ends - starts == 1) & (highs - lows == 1)
    places[sorted_places[1][starts[single]]] = sorted_places[0][lows[single]]
    owners = torch.owners, jax.owners
    sure = _names_of(torch, jax, places)
    for i in np.flatnonzero(~single & (highs > lows)):
        theirs = sorted_places[0][lows[i] : highs[i]]
        ours = sorted_places[1][starts[i] : ends[i]]
        pairs, *rest = _paired((theirs, ours), slopes, floor)
        named = (_by_name(rest[0], torch, owners[0]), _by_name(rest[1], jax, owners[1]))
        for one, other in itertools.chain(pairs, matched(*named, sure)):
            places[other] = one
    return places


def _names_of(torch: Side, jax: Side, places: np.ndarray) -> list[tuple[str, str]]:
    """The names of the arrays that share numbers."""
    ours = np.flatnonzero(places != NONE)
    both = np.stack([torch.owners[places[ours]], jax.owners[ours]], axis=1)
    return [(torch.names[one], jax.names[other]) for one, other in np.unique(both, axis=0)]


def _by_name(places: list[int], side: Side, owners: np.ndarray) -> dict[str, list[int]]:
    """The `places` by the name of the array that each is in, in order."""
    named: dict[str, list[int]] = {}
    for place in sorted(places):
        named.setdefault(side.names[owners[place]], []).append(place)
    return named


def _groups(
    torch: Sequence[str], jax: Sequence[str], names: Names
) -> tuple[np.ndarray, np.ndarray]:
    """The group number of each array on both sides: arrays that `names` joins share one, others
    have 0."""
    of_torch, of_jax = dict.fromkeys(torch, 0), dict.fromkeys(jax, 0)
    for number, (name, paths) in enumerate(names.items(), 1):
        paths = [paths] if isinstance(paths, str) else list(paths)
        for each, there in [(name, of_torch), *((path, of_jax) for path in paths)]:
            if each not in there:
                raise UserError(f"names: there is no {each}. {instead_of(each, there)}")
        group = next((of_jax[path] for path in paths if of_jax[path]), number)
        of_torch[name] = group
        of_jax.update(dict.fromkeys(paths, group))
    return np.array([*of_torch.values(), 0]), np.array([*of_jax.values(), 0])


def _paired(
    places: tuple[np.ndarray, np.ndarray], slopes: tuple[np.ndarray, ...], floor: float
) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """Pair indices of both sides whose gradients agree; also return those that are left over.

    The indices are sorted by gradient. Those with mere rounding on both sides are also left over.
    """
    theirs, ours = (each.tolist() for each in places)
    pairs: list[tuple[int, int]] = []
    left: tuple[list[int], list[int]] = [], []
    i = j = 0
    while i < len(theirs) and j < len(ours):
        a, b = slopes[0][theirs[i]], slopes[1][ours[j]]
        if a == b == 0:
            left[0].append(theirs[i])
            left[1].append(ours[j])
            i, j = i + 1, j + 1
        elif abs(a - b) <= ROUNDING * max(abs(a), abs(b)) + floor:
            pairs.append((theirs[i], ours[j]))
            i, j = i + 1, j + 1
        elif a < b:
            left[0].append(theirs[i])
            i += 1
        else:
            left[1].append(ours[j])
            j += 1
    return pairs, left[0] + theirs[i:], left[1] + ours[j:]


def _parts(torch: Side, jax: Side, places: np.ndarray) -> Iterator[Part]:
    """The corresponding numbers, grouped by their arrays, in torch's order."""
    owners, starts = (torch.owners, jax.owners), []
    for side in (torch, jax):
        sizes = [array.size for array in side.arrays.values()]
        starts.append(np.concatenate([[0], np.cumsum(sizes)]).astype(int))
    ours = np.flatnonzero(places != NONE)
    theirs = places[ours]
    keys = owners[0][theirs] * (len(jax.names) + 1) + owners[1][ours]
    order = np.lexsort((theirs, keys))
    for block in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
        if block.size:
            one, other = owners[0][theirs[block[0]]], owners[1][ours[block[0]]]
            in_torch, in_jax = theirs[block] - starts[0][one], ours[block] - starts[1][other]
            yield Part(torch.names[one], jax.names[other], in_torch, in_jax)

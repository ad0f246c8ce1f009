"""Fits a dialect's rows to the tensors of a file, and moves values along them both ways. Knows no file format."""

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from jaxgpt.config import ModelConfig, UserError, in_a_row
from jaxgpt.pytree import Tree, flatten, unflatten

from .axes import LABELS, Place, Put, Sizes, View, in_module_order, move, parts
from .dialect import FIELDS, Dialect, Ignore
from .masks import masks
from .resolve import express, pattern

Shape = tuple[int, ...]
Read = Callable[[str], np.ndarray]
FLOATS = {np.dtype(kind) for kind in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)}
LABEL_SIZES = {axis: len(labels) for axis, labels in LABELS.items()}


@dataclass(frozen=True)
class Fit:
    """How one dialect explains the tensors of one file; `problems` is empty when it explains all of them."""

    dialect: Dialect
    sizes: Sizes
    claimed: int
    problems: list[str]
    stated: frozenset[str] = frozenset()  # axes whose sizes somebody had to say

    @property
    def lacking(self) -> bool:
        """Whether tensors are missing, and no other ones are there in their place."""
        return any("is missing" in problem for problem in self.problems) and not any(
            "is unknown" in problem for problem in self.problems
        )


def fit(dialect: Dialect, shapes: Mapping[str, Shape], known: Sizes | None = None) -> Fit:
    """Of a dialect settled for this file; `known` are sizes that somebody stated, for axes that no name counts."""
    needless = [
        pattern(row.torch, dialect.qkv)[0] for row in dialect.rows if isinstance(row, Ignore)
    ]
    shapes = {
        name: shape
        for name, shape in shapes.items()
        if not any(regex.fullmatch(name) for regex in needless)
    }
    claims = {name: _claims(dialect, name) for name in shapes}
    problems = [f"{name} is unknown" for name, found in claims.items() if not found]
    problems += [
        f"{name} is claimed by {len(found)} rows"
        for name, found in claims.items()
        if len(found) > 1
    ]
    mine = {name: found[0] for name, found in claims.items() if len(found) == 1}
    counts: Counter[str] = Counter(LABEL_SIZES)
    for _, place in mine.values():
        for axis, index in place.items():
            counts[axis] = max(counts[axis], index + 1)
    views = dialect.tensors
    # A name such as `blocks.999999999` must not make us write a list as long.
    total = sum(math.prod(counts.get(axis, 0) for axis in view.spread) for view in views)
    if total > 16 * len(shapes) + 1024:
        numbered = ", ".join(
            f"{axis} up to {n - 1}" for axis, n in counts.items() if axis not in LABELS
        )
        problems.append(f"its names number {numbered}, which makes {total} tensors")
        return Fit(dialect, counts, len(mine), problems)
    expected = {
        view.at(place): view for view in views for place in view.places(defaultdict(int, counts))
    }
    problems += [
        f"{view.name} is missing"
        for view in views
        if not all(counts.get(axis) for axis in view.spread)
    ]
    tensors = [(view.dims, shapes[name]) for name, (view, _) in mine.items()]
    sizes = _solve(tensors, {**(known or {}), **counts})
    for name, view in expected.items():
        if name not in shapes:
            problems.append(f"{name} is missing ({_wanted(view, sizes)})")
        elif sizes.keys() >= set(view.inner) and shapes[name] != view.shape(sizes):
            problems.append(f"{name} is {shapes[name]}, expected {_wanted(view, sizes)}")
        elif len(shapes[name]) != len(view.dims):
            problems.append(f"{name} is {shapes[name]}, expected {view.formula}")
    return Fit(dialect, sizes, len(mine), problems, frozenset(known or {}) - counts.keys())


def joint_width(dialect: Dialect, shapes: Mapping[str, Shape], sizes: Sizes) -> int | None:
    """How wide all heads are together, where no tensor shows how many they are."""
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
    """Axis sizes from shapes, by majority: one tensor of a wrong shape must not make all others look wrong."""
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


def require_floats(dtypes: Mapping[str, np.dtype], path: object) -> None:
    odd = [f"{name} is {dtype}" for name, dtype in dtypes.items() if dtype not in FLOATS]
    if odd:
        raise UserError(
            f"{path}: weights must be float16, bfloat16, float32 or float64, but {in_a_row(odd)}. Quantised and "
            f"complex weights have no counterpart here; convert them with the code that made them."
        )


def require_one_dtype_per_row(
    dialect: Dialect, dtypes: Mapping[str, np.dtype], path: object
) -> None:
    """Layers are stacked in one array: a mixture would be cast without a word."""
    rows: defaultdict[str, set[str]] = defaultdict(set)
    for name, dtype in dtypes.items():
        for _, view in dialect.views:
            if view.match(name) is not None:
                rows[view.name].add(str(dtype))
    mixed = [
        f"{name} has {' and '.join(sorted(kinds))}"
        for name, kinds in rows.items()
        if len(kinds) > 1
    ]
    if mixed:
        raise UserError(
            f"{path}: layers differ in dtype: {in_a_row(mixed)}. Save the file in one dtype."
        )


def require_finite(nonfinite: Mapping[str, int], path: object) -> None:
    """`nonfinite` counts the values of each tensor that are NaN or infinite."""
    if nonfinite:
        counts = in_a_row(f"{name} has {count}" for name, count in nonfinite.items())
        raise UserError(
            f"{path}: weights are NaN or infinite: {counts}. A run that diverged saves such files; take an earlier "
            "checkpoint, or bring it over as it is with --allow-nonfinite."
        )


def require_in_range(params: Tree, dtype: np.dtype, path: object) -> None:
    overflown = [name for name, array in flatten(params).items() if not np.isfinite(array).all()]
    if overflown:
        raise UserError(
            f"{path}: {', '.join(overflown)} would become infinite in {dtype}, which ends at "
            f"{ml_dtypes.finfo(dtype).max}. Choose bfloat16 or float32."
        )


def to_flax(
    dialect: Dialect,
    sizes: Sizes,
    read: Read,
    dtype: np.dtype | None = None,
    order: Iterable[str] = (),
) -> Tree:
    """Each tensor is read once, in the given order: it may be that of a file in parts, of which one is open."""
    uses: dict[str, list[tuple[View, Place, Put]]] = {name: [] for name in order}
    for flax, torch in {
        flax.name: (flax, torch) for flax, torch in reversed(dialect.views)
    }.values():
        for place in flax.places(sizes):  # of a tied head the embedding alone, which comes first
            for name, put in parts(torch, flax, sizes, place):
                uses.setdefault(name, []).append((flax, place, put))
    flat: dict[str, np.ndarray] = {}
    for name, wanted in uses.items():
        piece = read(name) if wanted else np.empty(0)
        for flax, place, put in wanted:
            if flax.at(place) not in flat:
                flat[flax.at(place)] = np.empty(flax.shape(sizes), dtype or piece.dtype)
            with np.errstate(over="ignore"):  # the caller looks at the result
                put(piece, flat[flax.at(place)])
    return unflatten(flat)


def to_torch(dialect: Dialect, config: ModelConfig, params: Tree) -> dict[str, np.ndarray]:
    """Torch names and values in the order of the torch class."""
    arrays = flatten(params)
    return to_torch_lazily(dialect, config, set(arrays), lambda path: np.asarray(arrays[path]))


def to_torch_lazily(
    dialect: Dialect, config: ModelConfig, paths: set[str], read: Read
) -> dict[str, np.ndarray]:
    """As `to_torch`, but only the arrays of one row are held at a time beside what is being made."""
    dialect = express(dialect, paths, config.tied)
    sizes = sizes_of(config)
    _require_expressible(dialect, config, sizes, paths)
    dtype = read(min(paths)).dtype
    made: dict[str, np.ndarray] = dict(masks(dialect, sizes))
    whole: dict[tuple[str, str], str] = {}
    # The largest are made while there is little else in memory.
    for flax, torch in sorted(dialect.views, key=lambda views: -views[0].size(sizes)):
        if twin := whole.get(
            (flax.name, torch.formula)
        ):  # a tied head is the very array of the embedding
            made[torch.name] = made[twin]
            continue
        if not torch.spread:
            whole[flax.name, torch.formula] = torch.name

        def filled(path: str, flax: View = flax) -> np.ndarray:
            return read(path) if path in paths else np.zeros(flax.shape(sizes), dtype)

        made |= move(flax, torch, sizes, functools.cache(filled))
    return {name: made[name] for name in in_module_order(list(dialect.tensors), sizes)}


def sizes_of(config: ModelConfig) -> dict[str, int]:
    sizes = LABEL_SIZES | {axis: getattr(config, name) for axis, name in FIELDS.items()}
    return sizes | {"p": config.context_length + config.positions_offset}


def filled(dialect: Dialect, config: ModelConfig, paths: set[str]) -> list[str]:
    """Biases that the class has and the model lacks: zeros compute the same."""
    return sorted(
        path for path in _flax_paths(express(dialect, paths, config.tied), sizes_of(config)) - paths
    )


def _require_expressible(
    dialect: Dialect, config: ModelConfig, sizes: Sizes, paths: set[str]
) -> None:
    rows = _flax_paths(dialect, sizes)
    missing = sorted(path for path in rows - paths if not path.endswith("/bias"))
    problems = [f"it has no {path}, which this dialect's files hold" for path in missing]
    problems += [
        f"its {path} has no place in this dialect's files" for path in sorted(paths - rows)
    ]
    problems += [
        f"its {name} is {getattr(config, name)!r}, but {value!r} in all of this dialect's files"
        for name, value in {"positions_offset": 0, **dialect.fixed}.items()
        if getattr(config, name) != value
    ]
    if problems:
        raise UserError(
            f"The model cannot be written as dialect {dialect.name}: {'; '.join(problems)}."
        )


def _flax_paths(dialect: Dialect, sizes: Sizes) -> set[str]:
    return {flax.at(place) for flax, _ in dialect.views for place in flax.places(sizes)}


def parameter_rows(dialect: Dialect, sizes: Sizes) -> Iterator[str]:
    for flax, _ in dialect.views:
        yield from (flax.at(place) for place in flax.places(sizes))


def torch_names(dialect: Dialect, sizes: Sizes) -> set[str]:
    """Of the parameters, without masks."""
    return {view.at(place) for _, view in dialect.views for place in view.places(sizes)}


def meanings(dialect: Dialect, sizes: Sizes) -> dict[str, tuple[str, int | None, str]]:
    """Torch name -> which parameter it is, and how it lies: two dialects may say the same in other words."""
    return {
        torch.at(place): (flax.at(place), place.get("qkv"), torch.formula)
        for flax, torch in dialect.views
        for place in torch.places(sizes)
    }

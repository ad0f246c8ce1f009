"""Moves values along the rows of a dialect, from torch names to Flax parameters and back.

Independent of file formats.
"""

import functools
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import ml_dtypes
import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError, in_a_row
from jaxgpt.pytree import Tree, flatten, unflatten

from ..dtypes import OF_WEIGHTS
from ..streams import Described, Stream
from .axes import Sizes, View
from .buffers import buffers
from .dialect import Dialect
from .fields import FIELDS, norms_full_width
from .kinds import Scaled, part_of
from .labels import Place
from .order import in_file_order
from .regroup import COPIES, SMALL, Heads, Put, move, parts
from .resolve import express, fillable
from .rotary_layout import is_rotated, order
from .scaled import factor, times, undone

Read = Callable[[str], np.ndarray]


def require_floats(dtypes: Mapping[str, np.dtype], path: object) -> None:
    """Refuse weights of a dtype that is not in OF_WEIGHTS; `dtypes` is by tensor name."""
    odd = [
        f"{name} is {dtype}" for name, dtype in dtypes.items() if dtype not in OF_WEIGHTS.values()
    ]
    if odd:
        *most, last = OF_WEIGHTS
        raise UserError(
            f"{path}: weights must be {', '.join(most)} or {last}, but {in_a_row(odd)}. "
            "Quantised and complex weights have no counterpart here; convert them with the code "
            "that made them."
        )


def require_one_dtype_per_row(
    dialect: Dialect, dtypes: Mapping[str, np.dtype], path: object
) -> None:
    """Refuse layers of different dtypes: stacking them in one array would cast silently."""
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
    """Refuse non-finite weights; `nonfinite` maps tensor names to counts of such values."""
    if nonfinite:
        counts = in_a_row(f"{name} has {count}" for name, count in nonfinite.items())
        raise UserError(
            f"{path}: weights are NaN or infinite: {counts}. A run that diverged saves such files; "
            "take an earlier checkpoint, or bring it over as it is with --allow-nonfinite."
        )


def require_in_range(params: Tree, dtype: np.dtype, path: object) -> None:
    """Refuse parameters that became infinite when they were cast to `dtype`."""
    overflown = [name for name, array in flatten(params).items() if not np.isfinite(array).all()]
    if overflown:
        raise UserError(
            f"{path}: {', '.join(overflown)} would become infinite in {dtype}, which ends at "
            f"{ml_dtypes.finfo(dtype).max}. Choose bfloat16 or float32."
        )


def to_flax(
    dialect: Dialect,
    config: ModelConfig,
    read: Read,
    dtype: np.dtype | None = None,
    names: Iterable[str] = (),
) -> Tree:
    """Flax parameters from torch tensors, each read once, in the order of `names` if it has them.

    The order of a sharded file keeps only one of its shards open at a time.
    """
    sizes, elements = sizes_of(config), _heads_in_files(dialect, config)
    uses: dict[str, list[tuple[View, Place, Put]]] = {name: [] for name in names}
    for flax, torch in {
        (flax.name, part_of(torch.dims)): (flax, torch) for flax, torch in reversed(dialect.views)
    }.values():
        # Of two rows with the same values, the dict keeps the first: a tied head is not read.
        for place in flax.places(sizes):
            heads = Heads(elements, functools.partial(is_rotated, flax))
            for name, put in parts(torch, flax, sizes, place, heads):
                uses.setdefault(name, []).append((flax, place, put))
    flat: dict[str, np.ndarray] = {}

    def copy(piece: np.ndarray, wanted: list[tuple[View, Place, Put]]) -> None:
        with np.errstate(over="ignore"):  # the caller checks the result
            for flax, place, put in wanted:
                put(piece, flat[flax.at(place)])

    with ThreadPoolExecutor(COPIES) as threads:
        jobs: deque[Future[None]] = deque()
        for name, wanted in uses.items():
            if not wanted:
                continue
            piece = read(name)
            for flax, place, _ in wanted:
                if flax.at(place) not in flat:
                    flat[flax.at(place)] = np.empty(flax.shape(sizes, place), dtype or piece.dtype)
            if piece.size < SMALL:
                copy(piece, wanted)
                continue
            jobs.append(threads.submit(copy, piece, wanted))
            if len(jobs) > COPIES:
                jobs.popleft().result()
        for job in jobs:
            job.result()
    for row in _scaled_rows(dialect):
        flat[row.flax.name] = times(flat[row.flax.name], factor(row, sizes))
    return unflatten(flat)


def _scaled_rows(dialect: Dialect) -> list[Scaled]:
    return [row for row in dialect.rows if isinstance(row, Scaled)]


def stream(
    dialect: Dialect, config: ModelConfig, dtypes: Mapping[str, np.dtype], read: Read
) -> Stream:
    """Torch tensors, buffers included, in the order of the file or of the class.

    `dtypes` has the paths of the parameters, and `read` returns one by its path. The arrays of one
    row are in memory at a time.
    """
    paths = set(dtypes)
    require_expressible(dialect, config, paths)
    dialect = express(dialect, config, paths)
    sizes, elements = sizes_of(config), _heads_in_files(dialect, config)
    elements = None if elements is None else np.argsort(elements)
    usual = dtypes[min(dtypes)]  # of a bias that is filled in
    stored = buffers(dialect, config, sizes)
    scaled = {row.torch.view().name: row for row in _scaled_rows(dialect)}
    tensors = {name: Described(array.shape, array.dtype) for name, array in stored.items()}
    rows: list[tuple[View, View]] = []
    twins: dict[str, str] = {}
    whole: dict[tuple[str, str], View] = {}  # by Flax name and torch axes
    for flax, torch in dialect.views:
        for place in torch.places(sizes):
            path, _ = next(parts(flax, torch, sizes, place))
            shape = torch.shape(sizes, place)
            tensors[torch.at(place)] = Described(shape, dtypes.get(path, usual))
        first = torch if torch.spread else whole.setdefault((flax.name, torch.formula), torch)
        if first is torch:
            rows.append((flax, torch))
        else:  # a tied head shares the tensor of the embedding
            twins[torch.name] = first.name

    def made() -> Iterator[tuple[str, np.ndarray]]:
        yield from stored.items()
        for flax, torch in rows:

            def filled(path: str, flax: View = flax) -> np.ndarray:
                return read(path) if path in paths else np.zeros(flax.shape(sizes), usual)

            heads = Heads(elements, functools.partial(is_rotated, flax))
            for name, array in move(flax, torch, sizes, functools.cache(filled), heads):
                if row := scaled.get(name):
                    array = undone(row, array, factor(row, sizes))
                yield name, array

    return Stream({name: tensors[name] for name in in_file_order(dialect, sizes)}, twins, made)


def _heads_in_files(dialect: Dialect, config: ModelConfig) -> np.ndarray | None:
    """The element of a head in files of `dialect` for each element in the model, if they differ."""
    if config.positions != "rotary":
        return None
    layout = dialect.layout or config.rotary_layout
    if layout == "half" and not dialect.backward:
        return None
    return order(layout, dialect.backward, config.rotary_dim, config.head_dim)


def sizes_of(config: ModelConfig) -> dict[str, int]:
    """The size of each axis in a model of `config`."""
    sizes = {axis: getattr(config, name) for axis, name in FIELDS.items()}
    group = config.num_heads // config.num_kv_heads
    return sizes | {"group": group, "p": config.context_length + config.positions_offset}


def filled(dialect: Dialect, config: ModelConfig, paths: set[str]) -> list[str]:
    """The Flax paths of biases that the class has and the model lacks, written as zeros."""
    return sorted(
        path for path in _flax_paths(express(dialect, config, paths), sizes_of(config)) - paths
    )


def require_expressible(dialect: Dialect, config: ModelConfig, paths: set[str]) -> None:
    """Require that files of `dialect` have a place for every parameter and choice of the model."""
    dialect, sizes = express(dialect, config, paths), sizes_of(config)
    rows = _flax_paths(dialect, sizes)
    missing = sorted(rows - paths - fillable(dialect))
    problems = [f"it has no {path}, which this dialect's files hold" for path in missing]
    problems += [
        f"its {path} has no place in this dialect's files" for path in sorted(paths - rows)
    ]
    problems += [
        f"its {name} is {getattr(config, name)!r}, but {value!r} in all of this dialect's files"
        for name, value in dialect.certain.items()
        if getattr(config, name) != value
    ]
    wide = norms_full_width([flax for flax, _ in dialect.views])
    if config.norm_weight and wide != (config.qk_norm == "full_width") and config.qk_norm != "none":
        problems.append(
            f"its qk_norm is {config.qk_norm}, but this dialect's files have norms of queries and "
            f"keys over {'all heads together' if wide else 'each head'}"
        )
    if not dialect.grouped and config.num_kv_heads != config.num_heads:
        problems.append(
            f"its {config.num_heads} heads share {config.num_kv_heads} keys and values, and each "
            "has its own in this dialect's files"
        )
    problems += [problem for _, torch in dialect.views for problem in torch.undivided(sizes)]
    if problems:
        raise UserError(
            f"The model cannot be written as dialect {dialect.name}: {'; '.join(problems)}."
        )


def _flax_paths(dialect: Dialect, sizes: Sizes) -> set[str]:
    return {flax.at(place) for flax, _ in dialect.views for place in flax.places(sizes)}

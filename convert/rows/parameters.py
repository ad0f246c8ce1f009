"""Makes Flax parameters from torch tensors along the rows of a dialect.

Independent of file formats.
"""

import functools
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.pytree import Deferred, Tree, unflatten

from .dialect import Dialect
from .kinds import part_of
from .move import Read, heads_in_files, scaled_rows, sizes_of
from .regroup import COPIES, SMALL, Heads, Put, parts
from .rotary_layout import is_rotated
from .scaled import factor, times


class Use(NamedTuple):
    """A parameter that takes values from a tensor, and how it takes them."""

    path: str
    shape: tuple[int, ...]  # of the parameter
    put: Put


Uses = dict[str, list[Use]]  # by the name of the tensor


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
    uses = _uses(dialect, config)
    ordered = {name: uses[name] for name in (*names, *uses) if name in uses}
    return unflatten(_made(dialect, config, ordered, read, dtype))


def deferred(
    dialect: Dialect,
    config: ModelConfig,
    read: Read,
    dtypes: Mapping[str, np.dtype],
    dtype: np.dtype | None = None,
) -> dict[str, Deferred]:
    """The parameters of `to_flax` by their paths; `dtypes` has those of the tensors."""
    by_path: defaultdict[str, Uses] = defaultdict(dict)
    for name, wanted in _uses(dialect, config).items():
        for use in wanted:
            by_path[use.path].setdefault(name, []).append(use)

    def make(path: str) -> np.ndarray:
        return _made(dialect, config, by_path[path], read, dtype)[path]

    return {
        path: Deferred(wanted[0].shape, dtype or dtypes[name], functools.partial(make, path))
        for path, uses in by_path.items()
        for name, wanted in [next(iter(uses.items()))]
    }


def _uses(dialect: Dialect, config: ModelConfig) -> Uses:
    sizes, elements = sizes_of(config), heads_in_files(dialect, config)
    uses: Uses = {}
    for flax, torch in {
        (flax.name, part_of(torch.dims)): (flax, torch) for flax, torch in reversed(dialect.views)
    }.values():
        # Of two rows with the same values, the dict keeps the first: a tied head is not read.
        heads = Heads(elements, functools.partial(is_rotated, flax))
        for place in flax.places(sizes):
            for name, put in parts(torch, flax, sizes, place, heads):
                use = Use(flax.at(place), flax.shape(sizes, place), put)
                uses.setdefault(name, []).append(use)
    return uses


def _made(
    dialect: Dialect, config: ModelConfig, uses: Uses, read: Read, dtype: np.dtype | None
) -> dict[str, np.ndarray]:
    """The parameters in `uses`, of which all tensors are read in that order."""
    flat: dict[str, np.ndarray] = {}

    def copy(piece: np.ndarray, wanted: list[Use]) -> None:
        with np.errstate(over="ignore"):  # the caller checks the result
            for use in wanted:
                use.put(piece, flat[use.path])

    with ThreadPoolExecutor(COPIES) as threads:
        jobs: deque[Future[None]] = deque()
        for name, wanted in uses.items():
            piece = read(name)
            for use in wanted:
                if use.path not in flat:  # the rows may fill the diagonal of two axes alone
                    flat[use.path] = np.zeros(use.shape, dtype or piece.dtype)
            if piece.size < SMALL:
                copy(piece, wanted)
                continue
            jobs.append(threads.submit(copy, piece, wanted))
            if len(jobs) > COPIES:
                jobs.popleft().result()
        for job in jobs:
            job.result()
    for row in scaled_rows(dialect):
        if row.flax.name in flat:
            flat[row.flax.name] = times(flat[row.flax.name], factor(row, sizes_of(config)))
    return flat

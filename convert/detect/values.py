"""Evidence in the values of tensors: tied heads, sinusoids, forms of masks, norms never applied.

Independent of files: tensors come from a function that reads them by name.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jaxgpt.model.positions import sinusoids

from ..files.safefile import bits
from ..rows.axes import Sizes, View
from ..rows.dialect import EMBEDDING, HEAD, POSITIONS, Dialect, Ignore, Kind, Mask, Row, Tied
from ..rows.masks import kind_of

Read = Callable[[str], np.ndarray]
# Sinusoids computed in float32 are off by 3e-4 at position 5,000. Training moves a table further.
SINUSOID = 1e-3


@dataclass(frozen=True)
class Evidence:
    """The results of reading the values of one file."""

    dialect: Dialect  # with every Tied resolved to a Row, without Ignore
    read: dict[str, Any] = field(default_factory=dict)  # fields that the values show
    problems: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    told: frozenset[str] = frozenset()  # marks that tell twin dialects apart


def weigh(dialect: Dialect, sizes: Sizes, read: Read) -> Evidence:
    """Collect the evidence on `dialect`, settled for the file that `read` reads by tensor name."""
    rows: list[Kind] = []
    evidence = Evidence(dialect)
    told: set[str] = set()
    for row in dialect.rows:
        match row:
            case Tied():
                row = _head(row, dialect, read)
                told |= {"untied"} if row.flax == HEAD else set()
            case Mask():
                told.add("mask")
                row, problem = _mask(row, dialect, sizes, read)
                evidence.problems.extend(problem)
        if isinstance(row, Row) and row.flax.startswith(POSITIONS):
            evidence.read.update(_positions(View.parse(row.torch), read))
        if not isinstance(row, Ignore):
            rows.append(row)
    if _untouched(dialect, read):
        evidence.hints.append(
            "the final norm holds ones and zeros alone: was it ever applied? (final_norm=unused)"
        )
    return replace(evidence, dialect=replace(dialect, rows=tuple(rows)), told=frozenset(told))


def _head(row: Tied, dialect: Dialect, read: Read) -> Row:
    """The row of the head: the embedding's if their bits agree, otherwise its own."""
    embedding = rows_of(dialect, EMBEDDING)[0]
    one, other = read(View.parse(embedding.torch).name), read(View.parse(row.torch).name)
    same = one.dtype == other.dtype and np.array_equal(bits(one), bits(other))
    return Row(EMBEDDING if same else HEAD, row.torch)


def _mask(row: Mask, dialect: Dialect, sizes: Sizes, read: Read) -> tuple[Mask, list[str]]:
    """The row with the form and dtype of the file's masks, and problems with their values."""
    view = View.parse(row.torch, dialect.spelling)
    seen: dict[tuple[str, str], str] = {}
    for place in view.places(sizes):
        array = read(view.at(place))
        seen.setdefault((kind_of(array), str(array.dtype)), view.at(place))
    kind, dtype = next(iter(seen))
    problems = [f"{name} is no causal mask" for (kind, _), name in seen.items() if not kind]
    if len(seen) > 1:
        problems.append(f"{' and '.join(seen.values())} are not the same mask")
    return replace(row, kind=kind, dtype=dtype, written=True), problems


def _positions(view: View, read: Read) -> dict[str, Any]:
    """The fields that the values of the position table show."""
    table = read(view.name).astype(np.float64)
    table = table.reshape(max(table.shape[:-1]), table.shape[-1])
    if np.abs(table - sinusoids(*table.shape)).max() < SINUSOID:
        return {"positions": "sinusoidal", "positions_stored": True}
    return {"positions": "learned", "positions_stored": False}


def _untouched(dialect: Dialect, read: Read) -> bool:
    """Whether the final norm has its initial values, which training changes if it is applied."""
    norms = {
        row.flax.partition(" ")[0]: read(View.parse(row.torch).name)
        for row in rows_of(dialect, "final_norm/")
    }
    return bool(norms) and all(
        (value == (1 if path.endswith("scale") else 0)).all() for path, value in norms.items()
    )


def rows_of(dialect: Dialect, start: str) -> list[Row]:
    """The rows whose Flax view begins with `start`."""
    return [row for row in dialect.rows if isinstance(row, Row) and row.flax.startswith(start)]

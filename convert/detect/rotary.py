"""Rotary tables among the tensors of a file: what they show, and how they go back bit for bit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..rows.axes import Sizes, View
from ..rows.buffers import made_table
from ..rows.dialect import Dialect
from ..rows.fit import Fit, joint_width
from ..rows.kinds import Buffer, Kind
from ..rows.packed import pack_all
from ..rows.rotary_tables import Table, theta_of
from .inputs import Inputs
from .values import Evidence

Read = Callable[[str], np.ndarray]
Layer = int | None  # None for a table that all layers share


@dataclass(frozen=True)
class Rotation:
    """The results of reading the rotary tables of one file."""

    rows: tuple[Kind, ...]  # of the dialect, with the form and the bits of each table
    fields: Mapping[str, Any] = field(default_factory=dict)  # that the tables show
    rotated: int = 0  # elements of a head that rotate; 0 without tables
    problems: tuple[str, ...] = ()


def read_tables(dialect: Dialect, sizes: Sizes, read: Read, scaling: Any) -> Rotation:
    """Read the rotary tables of `dialect`, whose wavelengths are stretched by `scaling`."""
    views = [(row, view) for row, view in dialect.buffers if row.is_table]
    tables: dict[Layer, list[Table]] = {}
    for row, view in views:
        for place in view.places(sizes):
            tables.setdefault(place.get("layer"), []).append(_table(row, view, place, read))
    if not tables:
        return Rotation(dialect.rows)
    known: dict[tuple[bytes, ...], float | None] = {}
    thetas: dict[Layer, float | None] = {}
    for layer, alike in tables.items():
        bits = tuple(table.values.tobytes() for table in alike)
        if bits not in known:
            known[bits] = theta_of(alike, _of_layer(scaling, layer))
        thetas[layer] = known[bits]
    first = next(iter(tables.values()))[0]
    lost = [tables[layer][0].name for layer, theta in thetas.items() if theta is None]
    if lost and first.rotated > 2:  # a single frequency is 1 for every base
        text = (
            f"{lost[0]} is a table of rotary positions, but no base theta explains its values; if "
            "its wavelengths are scaled, say how with --set rotary_scaling=..."
        )
        return Rotation(dialect.rows, problems=(text,))
    fields = _fields(thetas, [table.twice for table in next(iter(tables.values()))])
    rows = tuple(
        _settled(row, dialect, sizes, read, {**fields, "scaling": scaling}) for row in dialect.rows
    )
    return Rotation(rows, fields, first.rotated)


def _of_layer(scaling: Any, layer: Layer) -> Any:
    """The scaling of one layer, where `scaling` is a list of them."""
    return scaling[layer or 0] if isinstance(scaling, list) else scaling


def _table(row: Buffer, view: View, place: Mapping[str, int], read: Read) -> Table:
    array = read(view.at(place))
    shape = [length for dim, length in zip(view.dims, array.shape, strict=True) if dim]
    form = row.form
    if form == "cis" and array.dtype.kind != "c":
        form = "angles"  # under the same names
    return Table(view.at(place), form, array.reshape(shape))


def _fields(thetas: Mapping[Layer, float | None], twice: list[str]) -> dict[str, Any]:
    """The fields that tables with the bases `thetas` show."""
    fields: dict[str, Any] = {"positions": "rotary", "positions_stored": False}
    values = [thetas[layer] for layer in sorted(thetas, key=lambda layer: layer or 0)]
    if None not in values:
        fields["rotary_theta"] = values[0] if len(set(values)) == 1 else values
    if layouts := [layout for layout in twice if layout]:
        fields["rotary_layout"] = layouts[0]
    return fields


def _settled(
    row: Kind, dialect: Dialect, sizes: Sizes, read: Read, fields: Mapping[str, Any]
) -> Kind:
    """The row with what its tables are made from again: their form, or else their own bits."""
    if not (isinstance(row, Buffer) and row.is_table):
        return row
    view = row.torch.view(dialect.spelling)
    arrays = [read(view.at(place)) for place in view.places(sizes)]
    table = _table(row, view, next(iter(view.places(sizes))), read)
    row = replace(
        row,
        form=f"{table.form} {table.twice}".strip(),
        dtype=str(arrays[0].dtype),
        shape=tuple(arrays[0].shape),
        written=True,
    )
    theta = fields.get("rotary_theta")
    if isinstance(theta, float) and not isinstance(fields["scaling"], list):
        again = made_table(row, theta, fields["scaling"], table.rotated)
        if all(again.tobytes() == array.tobytes() for array in arrays):
            return row
    return replace(row, bits=pack_all(arrays))


def has_complex_table(dialect: Dialect) -> bool:
    """Whether a rotary table in the file, whose form `dialect` has, is of complex numbers, or of
    the two parts of each."""
    tables = [row for row, _ in dialect.buffers if row.is_table and row.written]
    return any(row.form in ("cis", "pairs") for row in tables)


def head_width(inputs: Inputs, fitted: Fit, rotation: Rotation) -> int:
    """The width of a head, from that of its rotated part in tables.

    0 if it is already known, or if the tables do not settle it.
    """
    if "k" in fitted.sizes or not rotation.rotated:
        return 0
    usual = fitted.dialect.unsaid.get("rotary_fraction", 1.0)
    width = round(rotation.rotated / inputs.given.get("rotary_fraction", usual))
    sizes = {axis: n for axis, n in fitted.sizes.items() if axis not in ("kv", "k")}
    joint = joint_width(fitted.dialect, inputs.shapes, sizes) or 0
    return width if joint and joint % width == 0 else 0


def with_tables(inputs: Inputs, fitted: Fit, evidence: Evidence, rotation: Rotation) -> Evidence:
    """`evidence` with what rotary tables show."""
    if not rotation.rotated:
        return evidence
    fields = dict(rotation.fields)
    if inputs.widths:
        fields["head_dim"] = inputs.widths["k"]
    elif "k" in fitted.sizes:
        fields["rotary_fraction"] = rotation.rotated / fitted.sizes["k"]
    dialect = replace(evidence.dialect, rows=rotation.rows)
    return replace(evidence, dialect=dialect, read={**evidence.read, **fields})

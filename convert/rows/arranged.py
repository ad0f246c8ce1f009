"""The orders of parts within matrices that names may leave open, as fields of ModelConfig."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .axes import LABELS, Dims
from .dialect import Dialect, labelled
from .kinds import Kind, Row

# Each field, and its values.
ORDERS = {"qkv_order": ("by_part", "by_head"), "gate_order": ("gate_up", "up_gate")}
# The axes of a dimension in either order -> those in the other.
OTHER: dict[tuple[str, ...], tuple[str, ...]] = {
    (one, two, "k"): (two, one, "k")
    for label in ("qkv", "k_v")
    for one, two in ((label, "head"), ("head", label))
}


def arranged(dialect: Dialect, fields: Mapping[str, Any]) -> Dialect:
    """One reading of a dialect in the orders that `fields` name, where it leaves them open."""
    for field, swapped in SWAPS.items():
        usual = dialect.unsaid.get(field)
        if usual and fields.get(field, usual) != usual:
            unsaid = {**dialect.unsaid, field: fields[field]}
            dialect = replace(swapped(dialect), unsaid=unsaid)
    return dialect


def holds_parts_of_heads(dims: Dims) -> bool:
    """Whether a matrix of `dims` holds several of queries, keys and values, of all heads."""
    return any(dim in OTHER for dim in dims)


def with_heads_swapped(dialect: Dialect) -> Dialect:
    """The dialect with the other order in each matrix of queries, keys and values."""

    def swapped(row: Kind) -> Kind:
        if not (isinstance(row, Row) and holds_parts_of_heads(row.torch.dims)):
            return row
        dims = tuple(OTHER.get(dim, dim) for dim in row.torch.dims)
        return replace(row, torch=replace(row.torch, dims=dims))

    return replace(dialect, rows=tuple(map(swapped, dialect.rows)))


def with_gates_swapped(dialect: Dialect) -> Dialect:
    """The dialect in which the two projections of a gated MLP change places."""
    if "glu" not in dialect.words:
        return replace(dialect, words={**dialect.words, "glu": ("up gate",)})
    other = dict(zip(LABELS["glu"], reversed(LABELS["glu"]), strict=True))
    spellings = tuple(
        " ".join(f"{other[label]}={word}" for label, word in labelled("glu", words).items())
        for words in dialect.words["glu"]
    )
    return replace(dialect, words={**dialect.words, "glu": spellings})


SWAPS: dict[str, Callable[[Dialect], Dialect]] = {
    "qkv_order": with_heads_swapped,
    "gate_order": with_gates_swapped,
}

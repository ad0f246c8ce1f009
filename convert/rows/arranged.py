"""The orders of parts within matrices that names may leave open, as fields of ModelConfig."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .axes import Dims
from .dialect import Dialect, labelled
from .kinds import Kind, Row
from .labels import LABELS

PLACES = ("by_part", "by_head")
# Each field, and its values. Where queries do not come first, letters say so: kqv_by_part.
PERMUTED = tuple(
    f"{parts}_{place}" for parts in ("kqv", "kvq", "qvk", "vkq", "vqk") for place in PLACES
)
ORDERS = {"qkv_order": (*PLACES, *PERMUTED), "gate_order": ("gate_up", "up_gate")}
WORDS = {label[0]: label for label in LABELS["qkv"]}
# The axes of a dimension in either order -> those in the other.
OTHER: dict[tuple[str, ...], tuple[str, ...]] = {
    (one, two, "k"): (two, one, "k")
    for label in ("qkv", "k_v")
    for one, two in ((label, "head"), ("head", label))
}


def arranged(dialect: Dialect, fields: Mapping[str, Any]) -> Dialect:
    """One reading of a dialect in the orders that `fields` name, where it leaves them open."""
    for field, change in CHANGES.items():
        usual = dialect.unsaid.get(field)
        if usual and fields.get(field, usual) != usual:
            unsaid = {**dialect.unsaid, field: fields[field]}
            dialect = replace(change(dialect, usual, fields[field]), unsaid=unsaid)
    return dialect


def _with_parts(dialect: Dialect, usual: str, order: str) -> Dialect:
    """The dialect with queries, keys and values in `order` instead of the `usual` one."""
    if usual[-4:] != order[-4:]:  # part or head
        dialect = with_heads_swapped(dialect)
    if order not in PERMUTED:
        return dialect
    words = [WORDS[letter] for letter in order[:3]]
    both = [word for word in words if word in LABELS["k_v"]]
    own = {"qkv": (" ".join(words), *dialect.words.get("qkv", ())), "k_v": (" ".join(both),)}
    return replace(dialect, words={**dialect.words, **own})


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


# Each takes a dialect, the order that it has, and another.
CHANGES: dict[str, Callable[[Dialect, str, str], Dialect]] = {
    "qkv_order": _with_parts,
    "gate_order": lambda dialect, usual, order: with_gates_swapped(dialect),
}

"""Finds the fields for the order of parts within fused matrices that names leave open."""

from ..names.gates import halves, words_show_gate
from ..rows.arranged import ORDERS, holds_parts_of_heads
from ..rows.dialect import Dialect


def open_orders(dialect: Dialect) -> set[str]:
    """The fields of ORDERS that the settled `dialect` and its names leave open."""
    still = ORDERS.keys() & dialect.unsaid.keys()
    gates = [torch.name for flax, torch in dialect.views if "glu" in flax.labels]
    if "gate_order" in still and (not gates or _tells(dialect, gates[0])):
        still.remove("gate_order")
    if not any(holds_parts_of_heads(torch.dims) for _, torch in dialect.views):
        still.discard("qkv_order")
    return still


def _tells(dialect: Dialect, name: str) -> bool:
    """Whether the `name` of a fused matrix, or those of two matrices, shows which is the gate."""
    if "{glu}" not in name:
        return bool(halves(name))
    words = dialect.spelling["glu"]
    gate, up = (name.replace("{glu}", words[label]) for label in ("gate", "up"))
    return words_show_gate(gate, up)

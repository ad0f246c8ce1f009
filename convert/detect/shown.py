"""The fields that tensors and values show, without any config."""

from typing import Any

from ..rows.dialect import Dialect
from ..rows.fields import FIELDS, shown_by
from ..rows.fit import Fit
from .values import Evidence


def shown_fields(fitted: Fit, evidence: Evidence, dialect: Dialect) -> dict[str, Any]:
    """The fields that the tensors show, and those that the dialect fixes."""
    sizes = dict(fitted.sizes)
    if "p" in sizes:
        sizes["t"] = sizes["p"] - dialect.positions_offset
    if "kv" in sizes:
        sizes["head"] = sizes["kv"] * sizes["group"]
    fields = {
        field: sizes[axis]
        for axis, field in FIELDS.items()
        if axis in sizes and axis not in fitted.stated
    }
    shown = shown_by([flax for flax, _ in evidence.dialect.views])
    if dialect.family:  # a single norm may also serve attention and MLP one after the other
        shown.pop("residual", None)
    return fields | shown | evidence.read | dialect.certain

"""Values by layer, as configs state them: one for all blocks, or a list."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxgpt.errors import UserError


def by_layer(value: Any, fields: Mapping[str, Any]) -> list[Any]:
    """`value` for each block of a model with `fields`."""
    if isinstance(value, list):
        return value
    if "num_blocks" not in fields:
        raise UserError("it does not state the number of blocks")
    return [value] * fields["num_blocks"]


def collapsed(values: Sequence[Any]) -> Any:
    """The one value of all blocks, if they agree, otherwise the list."""
    return values[0] if all(value == values[0] for value in values) else list(values)


def first_of(values: Sequence[Any]) -> Any:
    """The first value that is not None; None if there is none."""
    return next((value for value in values if value is not None), None)

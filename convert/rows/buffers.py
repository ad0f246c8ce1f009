"""Buffers stored among the tensors of a file, such as causal masks: recognised, and made again."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxgpt.config import ModelConfig

from .axes import Sizes
from .dialect import Dialect
from .kinds import Buffer
from .packed import dtype_named, unpack
from .rotary_tables import made as made_again

FORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "lower": lambda lower: lower,  # ones where a query may attend
    "upper": lambda lower: ~lower,  # ones where it may not
}
ADDED = -1e4  # the largest value recognised as an additive mask's


def form_of(mask: np.ndarray) -> str:
    """The form of `mask`: a key of FORMS, or the number that it adds; "" if it is not causal."""
    square = mask.reshape(mask.shape[-2:])
    kinds = [
        *FORMS,
        *({float(square[0, -1])} if square.dtype.kind == "f" and square[0, -1] <= ADDED else ()),
    ]
    return next(
        (
            str(kind)
            for kind in kinds
            if np.array_equal(square, made(str(kind), len(square), square.dtype))
        ),
        "",
    )


def made(kind: str, length: int, dtype: np.dtype | str) -> np.ndarray:
    """A causal mask of shape (length, length) in the form `kind`, as `form_of` names it."""
    lower = np.tri(length, dtype=bool)
    return (FORMS[kind](lower) if kind in FORMS else np.where(lower, 0, float(kind))).astype(dtype)


def made_table(row: Buffer, theta: float, scaling: Any, rotated: int) -> np.ndarray:
    """The rotary table of `row`, in the shape and dtype that it has in its file."""
    form, _, twice = row.form.partition(" ")
    shape = [length for dim, length in zip(row.torch.dims, row.shape, strict=True) if dim]
    table = made_again(form, twice, theta, scaling, rotated, shape)
    return table.astype(dtype_named(row.dtype)).reshape(row.shape)


def buffers(dialect: Dialect, config: ModelConfig, sizes: Sizes) -> Mapping[str, np.ndarray]:
    """The buffers that the dialect's class stores, by torch name."""
    arrays: dict[str, np.ndarray] = {}
    for row, view in dialect.buffers:
        for number, place in enumerate(view.places(sizes)):
            if row.bits:
                array = _unpacked(row, number)
            elif row.is_table:
                layer = place.get("layer", 0)
                theta, scaling = (
                    config.by_layer(field)[layer] for field in ("rotary_theta", "rotary_scaling")
                )
                array = made_table(row, theta, scaling, config.rotary_dim)
            else:
                array = made(row.form, sizes["t"], row.dtype).reshape(view.shape(sizes))
            arrays[view.at(place)] = array
    return arrays


def _unpacked(row: Buffer, number: int) -> np.ndarray:
    """The table of `row` at the place `number`, from its bits."""
    bits = row.bits[number if len(row.bits) > 1 else 0]
    return unpack(bits, row.shape, row.dtype)

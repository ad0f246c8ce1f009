"""Buffers stored among the tensors of a file, such as causal masks: their forms, known and made."""

from collections.abc import Callable, Mapping

import numpy as np

from .axes import Sizes
from .dialect import Dialect

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


def buffers(dialect: Dialect, sizes: Sizes) -> Mapping[str, np.ndarray]:
    """The buffers that the dialect's class stores, by torch name."""
    return {
        view.at(place): made(row.form, sizes["t"], row.dtype).reshape(view.shape(sizes))
        for row, view in dialect.buffers
        for place in view.places(sizes)
    }

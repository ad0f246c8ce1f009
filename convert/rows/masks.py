"""Causal masks that files hold among their tensors: which form one has, and writing them anew."""

from collections.abc import Callable, Mapping

import numpy as np

from .axes import Sizes
from .dialect import Dialect

KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "lower": lambda lower: lower,  # ones where a query may look
    "upper": lambda lower: ~lower,  # ones where it may not
}
ADDED = -1e4  # or less: what people add to a score so that nothing is left of it


def kind_of(mask: np.ndarray) -> str:
    """Which of the forms that people give a causal mask: of ones, or a number that is added; "" for another one."""
    square = mask.reshape(mask.shape[-2:])
    kinds = [
        *KINDS,
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
    lower = np.tri(length, dtype=bool)
    return (KINDS[kind](lower) if kind in KINDS else np.where(lower, 0, float(kind))).astype(dtype)


def masks(dialect: Dialect, sizes: Sizes) -> Mapping[str, np.ndarray]:
    """What the class keeps besides its parameters."""
    return {
        view.at(place): made(row.kind, sizes["t"], row.dtype).reshape(view.shape(sizes))
        for row, view in dialect.masks
        for place in view.places(sizes)
    }

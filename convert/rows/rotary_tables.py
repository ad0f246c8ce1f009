"""Rotary tables that some classes store: their forms, and the base of the wavelengths in them.

A table has a row for each position and a column for each frequency, or each frequency twice, for
both elements of its pair.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from jaxgpt.rotary_scaling import frequencies

# Each form as a function of the angles (positions, frequencies).
FORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cos": np.cos,
    "sin": np.sin,
    "angles": lambda angles: angles,
    "cis": lambda angles: np.exp(1j * angles),
    "pairs": lambda angles: np.stack([np.cos(angles), np.sin(angles)], -1),
}
FREQUENCIES = "frequencies"  # the form of a vector with one element for each frequency
USUAL = (1e4, 1e5, 5e5, 1e6, 1e7, 1e8)
DIGITS = 6  # of a base that nobody would round further
ERROR = 2e-7  # of an angle in float32, for each position


@dataclass(frozen=True)
class Table:
    """One stored table, without axes of length 1, and its name for errors."""

    name: str
    form: str
    values: np.ndarray  # (positions, columns[, 2]), or (columns,) for frequencies

    @property
    def columns(self) -> np.ndarray:
        """The values with the axis of frequencies first."""
        return np.moveaxis(self.values, 0 if self.form == FREQUENCIES else 1, 0)

    @property
    def twice(self) -> str:
        """The layout in which each frequency is stored twice; "" if it is stored once."""
        columns, count = self.columns, len(self.columns) // 2
        if len(columns) % 2 == 0:
            if np.array_equal(columns[:count], columns[count:]):
                return "half"
            if np.array_equal(columns[::2], columns[1::2]):
                return "interleaved"
        return ""

    @property
    def once(self) -> np.ndarray:
        """The values with each frequency once, in double precision."""
        step = {
            "half": slice(len(self.columns) // 2),
            "interleaved": slice(0, None, 2),
            "": slice(None),
        }
        columns = self.columns[step[self.twice]]
        wide = columns.astype(np.complex128 if columns.dtype.kind == "c" else np.float64)
        return np.moveaxis(wide, 0, 0 if self.form == FREQUENCIES else 1)

    @property
    def rotated(self) -> int:
        """The number of elements of a head that rotate."""
        return 2 * self.once.shape[0 if self.form == FREQUENCIES else 1]

    @property
    def estimates(self) -> np.ndarray:
        """The frequencies as far as the table shows them."""
        if self.form == FREQUENCIES:
            return self.once
        if len(self.once) < 2:
            return np.ones(self.rotated // 2)
        second = self.once[1]  # the angle at position 1 is the frequency
        match self.form:
            case "cos":
                return np.arccos(second)
            case "sin":
                return np.arcsin(second)
            case "angles":
                return second
            case "cis":
                return np.angle(second)
        return np.arctan2(second[:, 1], second[:, 0])

    def holds(self, theta: float, scaling: dict | None) -> bool:
        """Whether the table has the wavelengths of the base `theta`, up to its precision."""
        exact = _made(self.form, theta, scaling, self.rotated, len(self.values))
        step = float(ml_dtypes.finfo(np.real(self.values).dtype).eps)
        if self.form in (FREQUENCIES, "angles"):
            return bool((np.abs(self.once - exact) <= (4 * step + 1e-6) * np.abs(exact)).all())
        bound = 2 * step + ERROR * len(self.values)
        return bool((np.abs(self.once - exact) <= bound).all())


def theta_of(tables: Sequence[Table], scaling: dict | None) -> float | None:
    """The base of the wavelengths in all `tables`, stretched by `scaling`; None if none fits."""
    for theta in _candidates(tables):
        if all(table.holds(theta, scaling) for table in tables):
            return theta
    return None


def _candidates(tables: Sequence[Table]) -> Iterator[float]:
    """Bases to try: the usual ones, then those that single frequencies imply, rounded and not."""
    yield from USUAL
    implied = []
    for table in tables:
        with np.errstate(all="ignore"):
            estimates = table.estimates
            count = len(estimates)
            for i in {1, count // 2, count - 1} - {0}:
                if i < count and 0 < estimates[i] < 1:
                    implied.append(float(estimates[i] ** (-count / i)))
    implied = [theta for theta in implied if 1 < theta < 1e30]
    for digits in range(1, DIGITS + 1):
        yield from dict.fromkeys(float(f"{theta:.{digits}g}") for theta in implied)
    yield from implied


def made(
    form: str, twice: str, theta: float, scaling: dict | None, rotated: int, shape: Sequence[int]
) -> np.ndarray:
    """The table of `form` in float32 or complex64, as its class computes it.

    `shape` is that of the table without axes of length 1.
    """
    table = exact(form, twice, theta, scaling, rotated, shape[0])
    return table.astype(np.complex64 if table.dtype.kind == "c" else np.float32)


def exact(
    form: str, twice: str, theta: float, scaling: dict | None, rotated: int, positions: int
) -> np.ndarray:
    """The table of `form` in double precision, with frequencies twice as `twice` says."""
    table = _made(form, theta, scaling, rotated, positions)
    axis = 0 if form == FREQUENCIES else 1
    if not twice:
        return table
    return np.concatenate([table, table], axis) if twice == "half" else np.repeat(table, 2, axis)


def _made(
    form: str, theta: float, scaling: dict | None, rotated: int, positions: int
) -> np.ndarray:
    """The table of `form` in double precision, with each frequency once."""
    turns = np.asarray(frequencies(rotated, theta, scaling), np.float64)
    if form == FREQUENCIES:
        return turns
    return np.asarray(FORMS[form](np.arange(positions)[:, None] * turns))

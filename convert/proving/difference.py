"""The difference between two arrays of the same quantity."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from jaxgpt.generation.score import log_softmax

from ..foreign.forward import are_log_probabilities
from .tolerances import TOLERANCE


def of_logits(theirs: np.ndarray, ours: np.ndarray) -> "Difference":
    """The difference of logits; of their log_softmax if a class returns that."""
    if are_log_probabilities(torch.from_numpy(theirs)):
        ours = log_softmax(ours)
    return Difference.of("logits", theirs, ours)


@dataclass(frozen=True)
class Difference:
    """The difference between two arrays of the same quantity."""

    name: str
    max: float
    mean: float
    scale: float  # the largest absolute value on torch's side
    relative: float  # as `of` defines it: a huge value elsewhere does not excuse a difference

    @property
    def same(self) -> bool:
        return self.relative <= TOLERANCE  # written so that NaN is a difference

    def named(self, name: str) -> "Difference":
        return dataclasses.replace(self, name=name)

    @staticmethod
    def of(name: str, theirs: np.ndarray, ours: np.ndarray, floor: float = 0.0) -> "Difference":
        """Compare `ours` with `theirs`, column by column.

        A difference is divided by the largest of three: the largest value of its column, the median
        of these over all columns, and `floor`.
        """
        gap, size = np.abs(theirs - ours), np.abs(theirs)
        columns = size.reshape(-1, size.shape[-1] if size.ndim else 1).max(axis=0)
        usual = np.median(columns[columns > 0]) if (columns > 0).any() else np.float64(1e-300)
        relative = (gap / np.maximum(columns.reshape(size.shape[-1:]), max(usual, floor))).max()
        return Difference(
            name, float(gap.max()), float(gap.mean()), float(size.max()), float(relative)
        )

"""Streams of tensors that are computed while a file is written, so that few are in memory."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Described(NamedTuple):
    """What is known of a tensor before it is made."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


@dataclass(frozen=True)
class Stream:
    """The tensors of a state dict, of which each is made once, in any order."""

    tensors: Mapping[str, Described]  # in the order of the state dict
    twins: Mapping[str, str]  # name -> the name of the tensor that it shares, which is made
    made: Callable[[], Iterator[tuple[str, np.ndarray]]]

    @staticmethod
    def of(arrays: Mapping[str, np.ndarray]) -> "Stream":
        """The stream of `arrays`, which share a tensor where they are the same object."""
        names = {id(array): name for name, array in reversed(list(arrays.items()))}
        first = {name: names[id(array)] for name, array in arrays.items()}
        return Stream(
            {name: Described(array.shape, array.dtype) for name, array in arrays.items()},
            {name: twin for name, twin in first.items() if name != twin},
            lambda: ((name, arrays[name]) for name in dict.fromkeys(first.values())),
        )

    def sharing(self) -> dict[str, list[str]]:
        """The names of each tensor, by the one that is made."""
        names: dict[str, list[str]] = {}
        for name in self.tensors:
            names.setdefault(self.twins.get(name, name), []).append(name)
        return names

    def with_prefix(self, prefix: str) -> "Stream":
        """The same tensors with `prefix` before all names."""
        return Stream(
            {prefix + name: tensor for name, tensor in self.tensors.items()},
            {prefix + name: prefix + twin for name, twin in self.twins.items()},
            lambda: ((prefix + name, array) for name, array in self.made()),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All tensors, those that share one as the same object."""
        made = dict(self.made())
        return {name: made[self.twins.get(name, name)] for name in self.tensors}


def bits(array: np.ndarray) -> np.ndarray:
    """The bytes of `array`, one after the other."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)

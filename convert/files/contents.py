"""The result of every reader of a file format: tensors by name, not yet read."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxgpt.system.unchanged import NO_FILES, Unchanged


@dataclass(frozen=True)
class Tensor:
    """One stored tensor; `read` returns its values, C-contiguous and read-only.

    Read-only because the array may share its memory with the mapped file.
    """

    shape: tuple[int, ...]
    dtype: Any  # a np.dtype, or the name of a kind that numpy lacks, which `read` cannot return
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Contents:
    """One opened file, or several shards of one."""

    container: str  # its format, for messages
    tensors: dict[str, Tensor]  # in the file's order
    extras: dict[Any, Any] = field(default_factory=dict)  # what the file holds besides the weights
    nested: str = ""  # the key of the state dict, which `wrappers.choose` finds; "" at the root
    files: Unchanged = NO_FILES  # the files that hold them
    sequential: bool = False  # whether tensors in another order take much longer to read

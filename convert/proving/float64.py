"""Float64 copies of both models on the CPU, and differences of arrays. Independent of files."""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from jaxgpt.model import GPT, assemble, params_of

from .tolerances import TOLERANCE


@dataclass(frozen=True)
class Difference:
    """The difference between two arrays of the same quantity."""

    name: str
    max: float
    mean: float
    scale: float  # the largest absolute value on torch's side
    relative: float  # as `of` says: a huge value elsewhere must not excuse a difference

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


class _Float64(TorchFunctionMode):
    """Turns requests for a narrower dtype into float64.

    Many classes compute tables or a softmax in float32, whatever the dtype of their parameters.
    """

    NARROW = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func = torch.Tensor.double if func in self.NARROW else func
        if func is torch.Tensor.view:  # `view(dtype)` reinterprets bits: not a cast
            return func(*args, **(kwargs or {}))
        return func(
            *map(_wide, args), **{name: _wide(value) for name, value in (kwargs or {}).items()}
        )


def _wide(value: Any) -> Any:
    if not isinstance(value, torch.dtype):
        return value
    wide = torch.float64 if value.is_floating_point else value
    return torch.complex128 if value.is_complex else wide


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Run the block with float64 for every floating-point tensor that torch makes."""
    with float64_by_default(), _Float64():
        yield


@contextlib.contextmanager
def float64_by_default() -> Iterator[None]:
    """Run the block with float64 for tensors of no explicit dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def exact_module(module: torch.nn.Module) -> torch.nn.Module:
    """A float64 copy of `module` on the CPU, in evaluation mode."""
    return copy.deepcopy(module).to("cpu", torch.float64).eval()


def exact_model(model: GPT) -> GPT:
    """A float64 copy of `model` on the CPU."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float64), params_of(model))
    with jax.enable_x64(True):
        return assemble(model.config, jax.device_put(params, jax.devices("cpu")[0]))

"""Runs a torch module in float64 on the CPU, whatever dtypes its class asks for."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


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
    return widened(copy.deepcopy(module))


def widened(module: torch.nn.Module) -> torch.nn.Module:
    """`module` itself in float64 on the CPU, in evaluation mode.

    Complex tables stay complex; `module.to(torch.float64)` would drop their imaginary part.
    """

    return module._apply(exact_tensor).eval()


def exact_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` on the CPU in float64, or in complex128 if it is complex; integers as they are."""
    return tensor.to("cpu", _wide(tensor.dtype))

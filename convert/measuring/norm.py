"""Measures the kind and the epsilon of a norm from its input and its output."""

from dataclasses import dataclass, replace
from typing import Any

import torch

SAME = 1e-9  # relative to the largest value; different models differ by a million times as much
SMALLEST = 1e-14  # a smaller epsilon is hidden by rounding
MACHINE = 2.0**-52


@dataclass(frozen=True)
class Norm:
    """A norm, described by fields of ModelConfig."""

    kind: str
    std: str = "biased"
    unit_offset: bool = False
    eps: float = 0.0
    has_weight: bool = True

    def __call__(self, x: torch.Tensor, parameters: tuple[Any, Any]) -> torch.Tensor:
        """`x` normalised along its last axis; `parameters` are scale and bias, or None."""
        scale, bias = parameters
        base, size = _parts(self.kind, self.std, x)
        y = base / (size + self.eps if self.std != "biased" else (size**2 + self.eps) ** 0.5)
        if self.has_weight and scale is not None:
            y = y * (scale + self.unit_offset)
        return y if bias is None else y + bias

    def fields(self) -> dict[str, Any]:
        """The fields of ModelConfig."""
        tiny = abs(self.eps) < SMALLEST
        eps: float | str = (
            "dtype" if tiny and abs(self.eps - MACHINE) < 0.02 * MACHINE else self.eps
        )
        return {
            "norm_kind": self.kind,
            "norm_std": self.std,
            "norm_unit_offset": self.unit_offset,
            "norm_eps": eps,
        }


def _parts(kind: str, std: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The numerator of a norm of this kind, and its denominator without epsilon."""
    base = x if kind == "rms" else x - x.mean(-1, keepdim=True)
    if std == "biased":
        return base, (base**2).mean(-1, keepdim=True) ** 0.5
    return base, ((base**2).sum(-1, keepdim=True) / (x.shape[-1] - 1)) ** 0.5


def same(one: torch.Tensor, other: torch.Tensor, within: float = SAME) -> bool:
    """Whether two tensors are equal up to rounding."""
    size = max(float(other.abs().max()), 1e-300)
    return one.shape == other.shape and float((one - other).abs().max()) <= within * size


def measured(
    x: torch.Tensor, y: torch.Tensor, parameters: tuple[Any, Any], has_weight: bool
) -> list[Norm]:
    """The norms that turn `x` into `y`, with their epsilons solved; mostly one or none."""
    scale, bias = parameters
    plain = y if bias is None else y - bias
    norms = []
    for offset in (False, True) if scale is not None and has_weight else (False,):
        factor = torch.ones(x.shape[-1]) if scale is None else scale + offset
        for kind, std in (("rms", "biased"), ("layer", "biased"), ("layer", "unbiased_plus_eps")):
            base, size = _parts(kind, std, x)
            ideal = base * factor
            ratio = (plain * ideal).sum(-1, keepdim=True) / (ideal**2).sum(-1, keepdim=True)
            if not bool(torch.isfinite(ratio).all()) or not same(ratio * ideal, plain):
                continue
            each = 1 / ratio - size if std != "biased" else 1 / ratio**2 - size**2
            smallest = size.flatten().argmin()  # an epsilon has the largest effect there
            eps = round_number(float(each.flatten()[smallest]), 1e-15 * float(size.min()) ** 2)
            norm = Norm(kind, std, offset, eps, has_weight)
            if norm.eps < SMALLEST and norm.eps != 0:
                norm = replace(norm, eps=MACHINE if size.min() > 1e-5 else norm.eps)
            if same(norm(x, parameters), y):
                norms.append(norm)
    return norms


def round_number(value: float, noise: float = 0.0) -> float:
    """`value`, or the number of at most four digits that is equal to it but for `noise`."""
    for digits in range(4):
        rounded = float(f"{value:.{digits}e}")
        if abs(rounded - value) <= 2e-6 * abs(value) + noise:
            return rounded
    return value

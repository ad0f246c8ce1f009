"""Equations for attention scores, and their solution for scores without a cap.

Scores are linear in the unknown numbers once the heads and their layout are known.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .attention import Heads, Measured, Rotation, layouts, measured_scores, pairs
from .least_squares import tolerance
from .search_angles import searched


@dataclass(frozen=True)
class Equations:
    """The differences of scores, as linear functions of unknown numbers.

    These numbers are the scale; the scale times the cosine and times the sine of each angle; and
    the slope of each head. A row is an equation.
    """

    layout: str
    width: int
    own: torch.Tensor  # the score of the second token for itself
    other: torch.Tensor  # that for the first token
    slopes: torch.Tensor  # the bias added to the difference of the two
    target: torch.Tensor
    weight: torch.Tensor
    groups: torch.Size

    @staticmethod
    def of(measured: Measured, layout: str, width: int) -> "Equations":
        """The equations of scores whose heads rotate in a part of `width` elements."""
        heads = measured.heads
        first, second = pairs(layout, width)
        q, own, other = heads.q[:, 1], heads.k[:, 1, :, None], heads.k[:, 0, :, None]
        qa, qb, ka, kb = q[..., first], q[..., second], other[..., first], other[..., second]
        whole = (q * own).sum(-1, keepdim=True)
        still = (q * other)[..., width:].sum(-1, keepdim=True)
        cos, sin = qa * ka + qb * kb, qa * kb - qb * ka
        groups = q.shape[1:3]
        slopes = torch.eye(groups.numel()).reshape(*groups, -1).expand(*q.shape[:3], -1)
        clear = measured.trust.flatten() > 0
        none = torch.zeros_like(cos)
        return Equations(
            layout,
            width,
            torch.cat([whole, none, none], -1).flatten(0, 2)[clear],
            torch.cat([still, cos, sin], -1).flatten(0, 2)[clear],
            slopes.flatten(0, 2)[clear],
            measured.target.flatten()[clear],
            measured.trust.flatten()[clear],
            groups,
        )

    @property
    def count(self) -> int:
        return len(self.target)

    @property
    def unknowns(self) -> int:
        return self.own.shape[1] + self.slopes.shape[1]

    @property
    def matrix(self) -> torch.Tensor:
        """The coefficients of all numbers in scores without a cap."""
        return torch.cat([self.own - self.other, self.slopes], 1)

    @property
    def tolerance(self) -> float:
        """The largest weighted gap that counts as a fit."""
        return tolerance(self.target * self.weight)

    def solved(self) -> torch.Tensor:
        """The numbers that fit best in scores without a cap."""
        weight = self.weight[:, None]
        wanted = (self.target * self.weight)[:, None]
        return torch.linalg.lstsq(self.matrix * weight, wanted, driver="gelsd").solution[:, 0]

    def rotation(self, values: torch.Tensor, softcap: float | None) -> Rotation:
        """The rotation with the numbers `values`."""
        n, heads = self.width // 2, self.groups.numel()
        cosines, sines = values[1 : 1 + n], values[1 + n : 1 + 2 * n]
        angles = torch.atan2(sines, cosines)
        angles = torch.where(angles.abs() < 1e-9, torch.zeros_like(angles), angles)
        slopes = values[-heads:].reshape(self.groups)
        return Rotation(self.layout, self.width, angles, float(values[0]), softcap, slopes)


def uncapped(
    heads: Heads, share: torch.Tensor, before: Rotation | None = None
) -> Iterator[Rotation]:
    """The ways to make scores without a cap so that they give the weights `share`."""
    measured = measured_scores(heads, share)
    if measured is None:
        return
    if heads.norms:
        yield from searched(measured, [None])
        return
    for layout, width in layouts(heads.q.shape[-1]):
        solution = _linear(measured, layout, width)
        if solution is not None:
            yield solution


def _linear(measured: Measured, layout: str, width: int) -> Rotation | None:
    """The solution of the linear equations of scores without a cap; None if there is none."""
    equations = Equations.of(measured, layout, width)
    if equations.count < equations.unknowns + 2:
        return None
    values = equations.solved()
    gap = (equations.matrix @ values - equations.target) * equations.weight
    if float(gap.abs().max()) > equations.tolerance:
        return None
    return equations.rotation(values, None)

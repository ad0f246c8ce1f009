"""Measures attention from texts of two tokens: rotation, scale, cap and slopes.

The second position mixes two values. Its output shows their weights, and these give the
difference of its two scores. The scores of many texts give all angles by linear equations; only a
cap of the scores takes a search.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .norm import same

CLOSE = 1e-7  # of a score difference, measured on weights that are neither 0 nor 1
SATURATED = 1e-4  # a weight nearer to 0 or 1 says little about the scores


@dataclass(frozen=True)
class Heads:
    """Queries (B, T, M, G, h), and keys and values (B, T, M, h), of texts with T = 2."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    weights: torch.Tensor  # (M, G, h): what multiplies the products of rotated queries and keys


@dataclass(frozen=True)
class Measured:
    """Heads, the differences of their two scores, and how much each equation counts."""

    heads: Heads
    target: torch.Tensor  # (B, M, G)
    trust: torch.Tensor


@dataclass(frozen=True)
class Rotation:
    """How the scores of a layer are made of queries and keys."""

    layout: str
    width: int  # of the part of a head that rotates
    angles: torch.Tensor  # of each pair, from one position to the next
    scale: float
    softcap: float | None
    slopes: torch.Tensor  # (M, G): what a key at distance 1 loses

    @property
    def pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        return pairs(self.layout, self.width)


def pairs(layout: str, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first and the second elements of the pairs that rotate together."""
    order = torch.arange(width)
    if layout == "interleaved":
        return order[0::2], order[1::2]
    return order[: width // 2], order[width // 2 :]


def second_weights(mixed: torch.Tensor, v: torch.Tensor) -> torch.Tensor | None:
    """The weight (B, M, G) of the second value at the second position; None if it is no mixture."""
    v = v[:, :, :, None]
    if not same(mixed[:, 0], v[:, 0].expand_as(mixed[:, 0])):
        return None
    step, change = v[:, 1] - v[:, 0], mixed[:, 1] - v[:, 0]
    sizes = (step**2).sum(-1)
    share = (change * step).sum(-1) / sizes
    usable = sizes > 1e-16 * float(sizes.max())  # the two values are not the same
    gap = torch.where(usable[..., None], change - share[..., None] * step, change)
    within = 1e-9 * float(v.abs().max())
    if not bool(usable.any()) or float(gap.abs().max()) > within:
        return None
    return torch.where(usable, share, torch.zeros_like(share))


def uncapped(
    heads: Heads, share: torch.Tensor, before: Rotation | None = None
) -> Iterator[Rotation]:
    """The ways to make scores without a cap so that they give the weights `share`."""
    measured = measured_scores(heads, share)
    if measured is None:
        return
    for layout, width in layouts(heads.q.shape[-1]):
        solution = _linear(measured, layout, width)
        if solution is not None:
            yield solution


def measured_scores(heads: Heads, share: torch.Tensor) -> Measured | None:
    """The score differences that the weights `share` show, without those that show little."""
    clear = (share > SATURATED) & (share < 1 - SATURATED)
    if not bool(clear.any()):
        return None
    share = torch.where(clear, share, torch.full_like(share, 0.5))
    trust = torch.where(clear, share * (1 - share), torch.zeros_like(share))
    return Measured(heads, torch.log(share) - torch.log1p(-share), trust)


def layouts(head_dim: int) -> list[tuple[str, int]]:
    """The layouts and widths of a rotated part, the likeliest first."""
    even = range(head_dim - head_dim % 2, 0, -2)
    usual = [head_dim, head_dim // 2, head_dim // 4, 3 * head_dim // 4]
    widths = [width for width in dict.fromkeys([*usual, *even]) if width in even]
    half = [("half", width) for width in widths or [0]]
    whole = head_dim - head_dim % 2
    return [half[0], *([("interleaved", whole)] if whole else []), *half[1:]]


def usual_angles(width: int, theta: float = 10000.0) -> torch.Tensor:
    """The angles of the pairs of a rotated part, from one position to the next."""
    return theta ** (-2 * torch.arange(width // 2) / max(width, 1))


def _linear(measured: Measured, layout: str, width: int) -> Rotation | None:
    """The solution of the linear equations of scores without a cap; None if there is none."""
    heads, target, trust = measured.heads, measured.target, measured.trust
    first, second = pairs(layout, width)
    q, own, other = heads.q[:, 1], heads.k[:, 1, :, None], heads.k[:, 0, :, None]
    w = heads.weights
    qa, qb, wa, wb = q[..., first], q[..., second], w[..., first], w[..., second]
    ka, kb, la, lb = own[..., first], own[..., second], other[..., first], other[..., second]
    rest = (q * w * (own - other))[..., width:].sum(-1, keepdim=True)
    cos = -(wa * qa * la + wb * qb * lb)
    sin = wa * qb * la - wb * qa * lb
    plain = bool((wa == wb).all())
    if plain:
        columns = [(wa * (qa * ka + qb * kb)).sum(-1, keepdim=True) + rest, cos, sin]
    else:
        squares = [wa * qa * ka + wb * qb * kb, wa * qb * kb + wb * qa * ka]
        columns = [rest, cos, sin, *squares, (wb - wa) * (qa * kb + qb * ka)]
    groups = q.shape[1:3]
    slopes = torch.eye(groups.numel()).reshape(*groups, -1).expand(*q.shape[:3], -1)
    matrix = torch.cat([*columns, slopes], -1).flatten(0, 2)
    clear = trust.flatten() > 0
    matrix, weight = matrix[clear], trust.flatten()[clear, None]
    wanted = target.flatten()[clear, None]
    if len(matrix) < matrix.shape[1] + 2:
        return None
    solved = torch.linalg.lstsq(matrix * weight, wanted * weight, driver="gelsd")
    gap = (matrix @ solved.solution - wanted) * weight
    if float(gap.abs().max()) > CLOSE * max(1.0, float((wanted * weight).abs().max())):
        return None
    n, values = width // 2, solved.solution[:, 0]
    cosines, sines = values[1 : 1 + n], values[1 + n : 1 + 2 * n]
    angles = torch.atan2(sines, cosines)
    scale = values[0]
    if not plain:
        scale = (cosines**2 + sines**2).sqrt().mean() if n else scale
    angles = torch.where(angles.abs() < 1e-9, torch.zeros_like(angles), angles)
    return Rotation(
        layout, width, angles, float(scale), None, values[-groups.numel() :].reshape(groups)
    )


def difference(heads: Heads, rotation: Rotation) -> torch.Tensor:
    """The score of the second token for itself minus that for the first, (B, M, G)."""
    q = rotated(heads.q[:, 1], rotation, 1) * heads.weights
    own = rotated(heads.k[:, 1], rotation, 1)[:, :, None]
    other = heads.k[:, 0, :, None]
    one, two = (rotation.scale * (q * key).sum(-1) for key in (own, other))
    if rotation.softcap is not None:
        one, two = (rotation.softcap * torch.tanh(x / rotation.softcap) for x in (one, two))
    return one - two + rotation.slopes


def rotated(x: torch.Tensor, rotation: Rotation, position: torch.Tensor | int) -> torch.Tensor:
    """Heads `x` (..., h) turned to `position`, a number or of shape (T,) with x (B, T, ..., h)."""
    first, second = rotation.pairs
    angles = torch.as_tensor(position)[..., None] * rotation.angles
    if angles.ndim > 1:
        angles = angles.reshape(angles.shape[0], *[1] * (x.ndim - 3), -1)
    a, b, turned = x[..., first], x[..., second], x.clone()
    turned[..., first] = a * angles.cos() - b * angles.sin()
    turned[..., second] = a * angles.sin() + b * angles.cos()
    return turned

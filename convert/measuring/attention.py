"""Measures attention from texts of two tokens: rotation, scale, cap and slopes.

The output of the second position is a mixture of two values. It shows their weights, which give the
difference of the two scores. The scores of many texts give all angles by linear equations; only a
cap on the scores requires a search.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .norm import same

SATURATED = 1e-4  # a weight closer than this to 0 or 1 says little about the scores


Make = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Heads:
    """Queries (B, T, M, G, h), and keys and values (B, T, M, h), of texts with T = 2."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    norms: tuple[Make, Make] | None = None  # norms of queries and keys after rotation


@dataclass(frozen=True)
class Measured:
    """Heads, the differences of their two scores, and how much each equation counts."""

    heads: Heads
    target: torch.Tensor  # (B, M, G)
    trust: torch.Tensor


@dataclass(frozen=True)
class Rotation:
    """How the scores of a layer are computed from queries and keys."""

    layout: str
    width: int  # width of the part of a head that rotates
    angles: torch.Tensor  # angle of each pair from one position to the next
    scale: float
    softcap: float | None
    slopes: torch.Tensor  # (M, G): the bias subtracted at distance 1

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
    """The weight (B, M, G) of the second value at the second position; None if the output is not a
    mixture."""
    v = v[:, :, :, None]
    step, change = v[:, 1] - v[:, 0], mixed[:, 1] - v[:, 0]
    sizes = (step**2).sum(-1)
    share = (change * step).sum(-1) / sizes
    usable = sizes > 1e-16 * float(sizes.max())  # the two values are not the same
    gap = torch.where(usable[..., None], change - share[..., None] * step, change)
    within = 1e-9 * float(v.abs().max())
    if not bool(usable.any()) or float(gap.abs().max()) > within:
        return None
    return torch.where(usable, share, torch.zeros_like(share))


def heads_seen(mixed: torch.Tensor, v: torch.Tensor) -> int:
    """The number of heads in `v` (B, T, W): each mixes its values with its own weights.

    0 if no two neighbours of the W values have the same weights, as where `v` is not what is mixed.
    """
    step, change = v[:, 1] - v[:, 0], mixed[:, 1] - v[:, 0]
    usable = step.abs() > 1e-3 * step.abs().mean()
    share = change / torch.where(usable, step, torch.ones_like(step))
    both = usable[:, 1:] & usable[:, :-1]
    unlike = both & ((share[:, 1:] - share[:, :-1]).abs() > 1e-7)
    count = 1 + int(unlike.any(0).sum())
    return count if count < v.shape[2] else 0


def sees_itself(mixed: torch.Tensor, v: torch.Tensor) -> bool:
    """Whether the first position sees its own value alone."""
    first = v[:, 0, :, None].expand_as(mixed[:, 0])
    return same(mixed[:, 0], first)


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


def placed(heads: Heads, rotation: Rotation) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys at their positions, rotated and normalised."""
    q, k = rotated(heads.q, rotation), rotated(heads.k, rotation)
    return (heads.norms[0](q), heads.norms[1](k)) if heads.norms else (q, k)


def products(heads: Heads, rotation: Rotation) -> tuple[torch.Tensor, torch.Tensor]:
    """The second query's product with its own key, and that with the first key, both (B, M, G)."""
    q, k = placed(heads, rotation)
    own, other = ((q[:, 1] * k[:, at, :, None]).sum(-1) for at in (1, 0))
    return own, other


def difference(heads: Heads, rotation: Rotation) -> torch.Tensor:
    """The score of the second token for itself minus that for the first, (B, M, G)."""
    one, two = (rotation.scale * product for product in products(heads, rotation))
    if rotation.softcap is not None:
        one, two = (rotation.softcap * torch.tanh(x / rotation.softcap) for x in (one, two))
    return one - two + rotation.slopes


def across(heads: Heads, rotation: Rotation) -> torch.Tensor:
    """The mixture (B, T, M, G, h) of the values of a memory, which has no positions."""
    q, k = heads.q, heads.k
    if heads.norms:
        q, k = heads.norms[0](q), heads.norms[1](k)
    scores = rotation.scale * torch.einsum("btmgh,bsmh->bmgts", q, k)
    if rotation.softcap is not None:
        scores = rotation.softcap * torch.tanh(scores / rotation.softcap)
    return torch.einsum("bmgts,bsmh->btmgh", scores.softmax(-1), heads.v)


def rotated(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Heads `x` (B, T, ..., h), rotated to their positions."""
    first, second = rotation.pairs
    order = torch.arange(x.shape[-1])
    partner, sign, pair = order.clone(), torch.zeros(len(order)), torch.full_like(order, len(first))
    partner[first], partner[second] = second, first
    sign[first], sign[second] = -1.0, 1.0
    pair[first] = pair[second] = torch.arange(len(first))
    angles = torch.cat([rotation.angles, torch.zeros(1)])[pair]
    angles = torch.arange(x.shape[1]).reshape(-1, *[1] * (x.ndim - 2)) * angles
    return x * angles.cos() + x[..., partner] * sign * angles.sin()

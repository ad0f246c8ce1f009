"""Searches for a cap of attention scores, with the scale and the angles that go with it."""

import math
from collections.abc import Iterator

import torch

from .attention import Heads, Rotation, layouts, measured_scores
from .equations import Equations
from .least_squares import vanishing
from .norm import round_number
from .search_angles import searched

# Caps from which the search starts, as multiples of half the largest difference of two scores.
STARTS = (1.2, 3.0, 10.0)


def capped(heads: Heads, share: torch.Tensor, before: Rotation | None = None) -> Iterator[Rotation]:
    """The ways to make scores with a cap so that they give the weights `share`.

    The search starts from the cap of the layer `before`, if there is one, and from usual caps.
    """
    measured = measured_scores(heads, share)
    if measured is None:
        return
    least = float((measured.target * (measured.trust > 0)).abs().max()) / 2
    starts = [least * start for start in STARTS]
    if before and before.softcap:
        starts.insert(0, before.softcap)
    if heads.norms:
        yield from searched(measured, starts)
        return
    for layout, width in layouts(heads.q.shape[-1]):
        equations = Equations.of(measured, layout, width)
        if equations.count < equations.unknowns + 3:
            continue
        for start in starts:
            solution = _solved(equations, start)
            if solution is not None:
                yield solution
                break


def _solved(equations: Equations, cap: float) -> Rotation | None:
    """The solution near `cap` and the numbers that fit best without one; None if none fits."""
    start = torch.cat([equations.solved(), torch.tensor([math.log(cap)])])
    point = vanishing(
        lambda point: _bent(equations, point)[0],
        lambda point: _bent(equations, point)[1],
        start,
        equations.tolerance,
    )
    if point is None:
        return None
    return equations.rotation(point[:-1], round_number(float(point[-1].exp())))


def _bent(equations: Equations, point: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted gaps of the equations, and their derivatives by the numbers in `point`.

    The last of these is the logarithm of the cap.
    """
    numbers, cap = equations.own.shape[1], point[-1].exp()
    bent, slopes, by_cap = [], [], []
    for matrix in (equations.own, equations.other):
        score = matrix @ point[:numbers] / cap
        tanh = score.tanh()
        steepness = 1 - tanh**2
        bent.append(cap * tanh)
        slopes.append(steepness[:, None] * matrix)
        by_cap.append(cap * (tanh - score * steepness))
    ours = bent[0] - bent[1] + equations.slopes @ point[numbers:-1]
    columns = [slopes[0] - slopes[1], equations.slopes, (by_cap[0] - by_cap[1])[:, None]]
    weight = equations.weight
    return (ours - equations.target) * weight, torch.cat(columns, 1) * weight[:, None]

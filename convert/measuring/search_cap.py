"""Searches for a cap of attention scores, with the scale and the angles that go with it."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from jaxgpt.model.position_spec import alibi_slopes

from .attention import (
    CLOSE,
    Heads,
    Measured,
    Rotation,
    difference,
    layouts,
    measured_scores,
    usual_angles,
)
from .norm import round_number

# Theta, cap, and the power of a head's width that scales scores, from which the search starts.
STARTS = (
    (1e4, 20.0, -0.5),
    (1e4, 20.0, 0.0),
    (1e4, 5.0, -0.5),
    (1e2, 20.0, -0.5),
    (1e6, 20.0, -0.5),
)
STEPS = 60  # of that search
HOPELESS = 1e-2  # an error that remains after a quarter of them


def capped(heads: Heads, share: torch.Tensor, before: Rotation | None = None) -> Iterator[Rotation]:
    """The same with a cap: one solution of a search, if there is one.

    It starts from the layer `before`, then from usual values.
    """
    measured = measured_scores(heads, share)
    if measured is None:
        return
    groups, head_dim = heads.q.shape[2:4], heads.q.shape[-1]
    alibi, still = torch.tensor(alibi_slopes(groups.numel())).reshape(groups), torch.zeros(groups)
    kinds = [(layout, width, still) for layout, width in layouts(head_dim)[:4]]
    kinds += [("half", 0, still), ("half", 0, alibi)]
    usual = (
        Rotation(layout, width, usual_angles(width, theta), head_dim**power, cap, slopes)
        for (layout, width, slopes), (theta, cap, power) in itertools.product(kinds, STARTS)
    )
    for start in itertools.chain([before] if before and before.softcap else [], usual):
        solution = _searched(measured, start)
        if solution is not None:
            yield solution
            return


def _searched(measured: Measured, start: Rotation) -> Rotation | None:
    """The solution for scores with a cap, by Levenberg and Marquardt; None if none fits."""
    n, heads, target, trust = len(start.angles), measured.heads, measured.target, measured.trust
    numbers = torch.tensor([start.scale, start.softcap or 1.0])
    point = torch.cat([start.angles, numbers.log()])

    def of(point: torch.Tensor) -> Rotation:
        scale, cap = point[n].exp(), point[n + 1].exp()
        return replace(start, angles=point[:n], scale=scale, softcap=cap)  # type: ignore[arg-type]

    def gap(point: torch.Tensor) -> torch.Tensor:
        return ((difference(heads, of(point)) - target) * trust).flatten()

    damping, error = 1e-3, gap(point)
    for step_number in range(STEPS):
        worst = float(error.abs().max())
        if not math.isfinite(worst):
            return None
        if worst < 1e-13 or damping > 1e8 or (step_number > STEPS // 4 and worst > HOPELESS):
            break
        slope = torch.autograd.functional.jacobian(gap, point)
        square = slope.T @ slope
        if not bool(torch.isfinite(square).all()):
            return None
        square = square + damping * torch.diag(square.diagonal() + 1e-12)
        step = torch.linalg.lstsq(square, (slope.T @ error)[:, None]).solution[:, 0]
        moved = gap(point - step)
        if float((moved**2).sum()) < float((error**2).sum()):
            point, error, damping = point - step, moved, damping / 5
        else:
            damping *= 4
    if float(error.abs().max()) > CLOSE * max(1.0, float((target * trust).abs().max())):
        return None
    return replace(
        start,
        angles=point[:n],
        scale=float(point[n].exp()),
        softcap=round_number(float(point[n + 1].exp())),
    )

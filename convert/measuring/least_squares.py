"""Finds the point where all gaps vanish, by the Levenberg-Marquardt method."""

from collections.abc import Callable

import torch

CLOSE = 1e-7  # tolerance of a score difference, measured on weights that are neither 0 nor 1
STEPS = 60
HOPELESS = 1e-2  # the search ends if a larger gap remains after a quarter of the steps

Function = Callable[[torch.Tensor], torch.Tensor]


def tolerance(target: torch.Tensor) -> float:
    """The largest gap that may remain between a fit and `target`."""
    return CLOSE * max(1.0, float(target.abs().max()))


def vanishing(
    gaps: Function, derivatives: Function, point: torch.Tensor, within: float
) -> torch.Tensor | None:
    """A point near `point` where all `gaps` are below `within`; None if the search does not
    converge."""
    damping, error, slope = 1e-3, gaps(point), derivatives(point)
    for step_number in range(STEPS):
        worst = float(error.abs().max())
        if worst < 1e-13 or damping > 1e8 or (step_number > STEPS // 4 and worst > HOPELESS):
            break
        sizes = (slope**2).sum(0).sqrt()
        damped = torch.cat([slope, torch.diag(damping**0.5 * (sizes + 1e-12))])
        if not bool(torch.isfinite(damped).all()):
            return None
        wanted = torch.cat([error, torch.zeros_like(sizes)])[:, None]
        step = torch.linalg.lstsq(damped, wanted, driver="gels").solution[:, 0]
        moved = gaps(point - step)
        if float((moved**2).sum()) < float((error**2).sum()):
            point, error, damping = point - step, moved, damping / 5
            slope = derivatives(point)
        else:
            damping *= 4
    return point if float(error.abs().max()) <= within else None

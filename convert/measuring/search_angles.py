"""Searches for the rotation angles of heads that are normalised after rotation.

Such scores are not linear in cosines and sines. The search starts from the angles for many values
of theta, with the scale that fits best.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from .attention import Measured, Rotation, difference, layouts, products
from .least_squares import tolerance, vanishing
from .norm import round_number

THETAS = tuple(10.0 ** (quarter / 4) for quarter in range(4, 33))
STRETCHES = (1.0, -1.0, 0.5, 0.25, 0.125)  # factors of the angles; negative ones rotate backwards
GROWTHS = (1.0, 1.5, 2.5)  # factors of the scale that fits without a cap
TRIALS = 3  # number of starts of each layout that are followed
STEP = 1e-6  # for numerical derivatives
SPARE = 4  # equations for each unknown number


def searched(measured: Measured, caps: Sequence[float | None]) -> Iterator[Rotation]:
    """The ways to make the scores, each from one of the starts `caps`; None stands for no cap."""
    head_dim = measured.heads.q.shape[-1]
    few = _fewer(measured, SPARE * (head_dim // 2 + 2))
    for layout, width in layouts(head_dim):
        starts = list(_starts(few, layout, width, caps))
        for _, start in sorted(starts, key=lambda pair: pair[0])[:TRIALS]:
            solution = _followed(few, start)
            if solution is not None:
                yield solution
                break


def _fewer(measured: Measured, equations: int) -> Measured:
    """The texts with the most telling weights, enough of them for `equations` equations."""
    heads, target, trust = measured.heads, measured.target, measured.trust
    texts = -(-equations // target[0].numel())
    best = trust.flatten(1).sum(1).argsort(descending=True)[:texts]
    part = replace(heads, q=heads.q[best], k=heads.k[best], v=heads.v[best])
    return Measured(part, target[best], trust[best])


def _starts(
    measured: Measured, layout: str, width: int, caps: Sequence[float | None]
) -> Iterator[tuple[float, Rotation]]:
    """Rotations by usual angles, each with the size of the gaps that it leaves."""
    target, trust = measured.target, measured.trust
    still = torch.zeros(target.shape[1:])
    for theta, stretch in itertools.product(THETAS, STRETCHES):
        angles = stretch * theta ** (-2 * torch.arange(width // 2) / max(width, 1))
        plain = Rotation(layout, width, angles, 1.0, None, still)
        own, other = products(measured.heads, plain)
        step = (own - other) * trust
        scale = float((step * target * trust).sum() / (step**2).sum())
        for cap, growth in itertools.product(caps, GROWTHS if caps[0] else (1.0,)):
            start = replace(plain, scale=abs(growth * scale), softcap=cap)
            one, two = (start.scale * product for product in (own, other))
            if cap:
                one, two = (cap * torch.tanh(score / cap) for score in (one, two))
            yield float((((one - two - target) * trust) ** 2).sum()), start


def _followed(measured: Measured, start: Rotation) -> Rotation | None:
    """The rotation near `start` that gives the scores; None if there is none."""
    n, target, trust = len(start.angles), measured.target, measured.trust
    numbers = [start.scale] if start.softcap is None else [start.scale, start.softcap]
    point = torch.cat([start.angles, torch.tensor(numbers).log()])

    def at(point: torch.Tensor) -> Rotation:
        cap = None if start.softcap is None else float(point[n + 1].exp())
        return replace(start, angles=point[:n], scale=float(point[n].exp()), softcap=cap)

    def error(point: torch.Tensor) -> torch.Tensor:
        return ((difference(measured.heads, at(point)) - target) * trust).flatten()

    def slope(point: torch.Tensor) -> torch.Tensor:
        steps = torch.eye(len(point)) * STEP
        columns = [(error(point + step) - error(point - step)) / (2 * STEP) for step in steps]
        return torch.stack(columns, 1)

    solution = vanishing(error, slope, point, tolerance(target * trust))
    if solution is None:
        return None
    end = at(solution)
    angles = torch.where(end.angles.abs() < 1e-9, torch.zeros_like(end.angles), end.angles)
    cap = None if end.softcap is None else round_number(end.softcap)
    return replace(end, angles=angles, softcap=cap)

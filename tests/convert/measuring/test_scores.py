"""Attention weights reveal how their scores were computed, for any angles and caps."""

from collections.abc import Callable
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from convert.foreign.float64 import float64_by_default  # noqa: E402
from convert.measuring.attention import Heads, Rotation, difference  # noqa: E402
from convert.measuring.equations import uncapped  # noqa: E402
from convert.measuring.norm import Norm  # noqa: E402
from convert.measuring.search_cap import capped  # noqa: E402

ROWS, KEYS, GROUP, WIDTH = 96, 2, 3, 8
# Angles of no theta: two of them are stretched.
ANGLES = [1.0, 0.21, 0.012, 0.0003]


def heads_of(norm: Norm | None) -> Heads:
    """Random heads, which `norm` normalises after they rotate."""
    torch.manual_seed(0)
    q, k = torch.randn(ROWS, 2, KEYS, GROUP, WIDTH), torch.randn(ROWS, 2, KEYS, WIDTH)
    norms = None
    if norm:
        scales, biases = 1 + torch.randn(2, WIDTH) / 5, torch.randn(2, WIDTH) / 5
        norms = (
            lambda x: norm(x, (scales[0], biases[0])),
            lambda x: norm(x, (scales[1], biases[1])),
        )
    return Heads(q, k, torch.randn(ROWS, 2, KEYS, WIDTH), norms)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("norm", [None, Norm("rms", eps=1e-6), Norm("layer", eps=1e-5)])
@pytest.mark.parametrize(("solve", "cap"), [(uncapped, None), (capped, 5.0), (capped, 50.0)])
def test_weights_show_the_rotation(
    solve: Callable[..., object], cap: float | None, norm: Norm | None, layout: str
) -> None:
    with float64_by_default():
        heads = heads_of(norm)
        still = torch.zeros(KEYS, GROUP)
        rotation = Rotation(layout, WIDTH, torch.tensor(ANGLES), 0.4, cap, still)
        share = torch.sigmoid(difference(heads, rotation))
        solution = next(iter(solve(heads, share)))
    assert (solution.layout, solution.width, solution.softcap) == (layout, WIDTH, cap)
    assert solution.scale == pytest.approx(0.4, rel=1e-7)
    assert torch.allclose(solution.angles, rotation.angles, atol=1e-8)
    assert torch.allclose(solution.slopes, still, atol=1e-7)


def test_slopes_show_below_a_cap() -> None:
    with float64_by_default():
        heads = heads_of(None)
        slopes = torch.tensor([[0.5, 0.25, 0.125], [0.7, 0.3, 0.01]])
        still = Rotation("half", WIDTH, torch.zeros(WIDTH // 2), 0.7, 7.3, slopes)
        solution = next(capped(heads, torch.sigmoid(difference(heads, still))))
    assert (solution.softcap, solution.scale) == (7.3, pytest.approx(0.7, rel=1e-7))
    assert torch.allclose(solution.slopes, slopes, atol=1e-7)
    assert not solution.angles.abs().max()


@pytest.mark.parametrize("solve", [uncapped, capped])
def test_other_scores_have_no_solution(solve: Callable[..., object]) -> None:
    with float64_by_default():
        heads = heads_of(None)
        still = torch.zeros(KEYS, GROUP)
        rotation = Rotation("half", WIDTH, torch.tensor(ANGLES), 0.4, None, still)
        scores = difference(replace(heads, k=heads.k**3), rotation)
        assert not list(solve(heads, torch.sigmoid(scores)))

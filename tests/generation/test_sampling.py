"""20,000 draws from one distribution, against probabilities computed by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import UserError
from jaxgpt.generation import sampling
from jaxgpt.generation.options import SampleOptions
from jaxgpt.generation.sampling import NOT_FINITE, choose

PROBABILITIES = np.array([0.30, 0.22, 0.14, 0.11, 0.09, 0.06, 0.05, 0.03])
DRAWS = 20_000
# By how much the sum of squares may exceed in one of a thousand runs, by degrees of freedom.
CHI_SQUARE = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47, 5: 20.52, 6: 22.46, 7: 24.32}


def drawn(**options: Any) -> np.ndarray:
    """How often each id is drawn."""
    sampling = SampleOptions(**options).sampling(len(PROBABILITIES))
    keys = jax.random.split(jax.random.key(0), DRAWS)
    logits = jnp.broadcast_to(jnp.log(PROBABILITIES) + 3.0, (DRAWS, len(PROBABILITIES)))
    ids, logprobs = jax.jit(lambda *arguments: choose(*arguments))(logits, keys, sampling)
    np.testing.assert_allclose(np.exp(logprobs), PROBABILITIES[ids], atol=1e-6)
    return np.bincount(ids, minlength=len(PROBABILITIES))


def reference(
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    allowed: np.ndarray | None = None,
) -> np.ndarray:
    """Probabilities by hand: one filter after the other, each on what the last one left."""
    p = (PROBABILITIES * (1 if allowed is None else allowed)) ** (1 / temperature)
    p /= p.sum()
    if top_k:
        p[np.argsort(-p, kind="stable")[top_k:]] = 0
        p /= p.sum()
    order = np.argsort(-p, kind="stable")
    within = np.searchsorted(np.cumsum(p[order]), top_p - 1e-9) + 1
    p = np.where(np.isin(np.arange(len(p)), order[:within]), p, 0)
    p = np.where(p >= min_p * p.max(), p, 0)
    return np.asarray(p / p.sum())


@pytest.mark.parametrize("few", [2, 4, 256])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 3},
        {"top_p": 0.6},
        {"top_p": 0.9},
        {"top_k": 6, "top_p": 0.6},
        {"min_p": 0.25},
        {"temperature": 1.5, "top_k": 6, "top_p": 0.8, "min_p": 0.1},
        {"allowed": np.array([1, 1, 0, 1, 1, 1, 0, 1], bool)},
    ],
    ids=str,
)
def test_draws_follow_the_probabilities_computed_by_hand(
    options: dict, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not the most likely few tokens are enough."""
    monkeypatch.setattr(sampling, "FEW", few)
    counts, expected = drawn(**options), DRAWS * reference(**options)
    assert not counts[expected == 0].any()
    possible = expected > 0
    excess = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert excess < CHI_SQUARE[possible.sum() - 1]


def test_temperature_0_takes_the_most_likely_allowed_token() -> None:
    assert drawn(temperature=0.0)[0] == DRAWS
    assert drawn(temperature=0.0, allowed=np.arange(8) > 0)[1] == DRAWS


def one(logits: list[float], draws: int = 200, **options: Any) -> set[int]:
    """The ids that are drawn."""
    sampling = SampleOptions(**options).sampling(len(logits))
    same = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (draws, len(logits)))
    return set(
        np.asarray(
            jax.jit(choose)(same, jax.random.split(jax.random.key(0), draws), sampling)[0]
        ).tolist()
    )


def test_truncation_is_exact_among_equal_logits() -> None:
    assert one([0, 3, 3, 3, 1], top_k=1) == {1}
    assert one([0, 3, 3, 3, 1], top_k=2) == {1, 2}
    assert one([2] * 20, top_p=0.12) == {0, 1, 2}
    assert one([2] * 20, min_p=1.0, draws=2000) == {*range(20)}


def test_extreme_options_choose_the_right_tokens() -> None:
    allowed = np.array([False, True, True, True])
    assert one([20, 1, 5, 4], temperature=1e30, allowed=allowed) == {1, 2, 3}
    assert one([20, 1, 5, 4], temperature=1e-30, allowed=allowed) == {2}
    assert one([1, 60, 5, 9e4], temperature=1e-30) == {3}
    assert one([20, 1, 5, 4], top_p=1e-45, allowed=allowed) == {2}
    assert one([20, 1, 5, 4], min_p=1e-45, allowed=allowed, draws=5000) == {1, 2, 3}


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_row_of_non_finite_logits_yields_no_token(broken: float) -> None:
    logits = jnp.log(jnp.array([PROBABILITIES, PROBABILITIES])).at[1, 3].set(broken)
    ids, _ = choose(logits, jax.random.split(jax.random.key(0)), SampleOptions().sampling(8))
    assert ids[0] >= 0
    assert ids[1] == NOT_FINITE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"temperature": -1.0},
            "temperature must be 0 (the most likely token) or lie in [1e-30, 1e30], but is -1.0",
        ),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"top_k": 9}, "top_k must lie between 1 and the 8 ids there are, but is 9"),
        ({"temperature": 1e31}, "temperature must be"),
        ({"top_k": -1}, "top_k must lie"),
        ({"top_k": 2.5}, "top_k must be a whole number, but is 2.5"),
        ({"top_p": 0.0}, "top_p must lie in (0, 1], but is 0.0"),
        ({"min_p": 1.5}, "min_p must lie in [0, 1], but is 1.5"),
        ({"allowed": np.zeros(8, bool)}, "allowed leaves no id to choose"),
        ({"allowed": np.ones(7, bool)}, "allowed must have shape (8,), but has (7,)"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        drawn(**options)
    assert message in str(refusal.value)


@pytest.mark.parametrize("few", [2, 256])
def test_each_row_may_have_its_own_options(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "FEW", few)
    ways = [
        SampleOptions(**options).sampling(8)
        for options in ({}, {"temperature": 0}, {"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.25})
    ]
    rows = 200
    logits = jnp.broadcast_to(jnp.log(PROBABILITIES), (rows, 8))
    keys = jax.random.split(jax.random.key(1), rows)
    mixed = sampling.for_rows(ways, [rows // 5] * 5)
    ids, logprobs = choose(logits, keys, mixed)
    for i, way in enumerate(ways):
        own = slice(i * rows // 5, (i + 1) * rows // 5)
        alone = choose(logits[own], keys[own], way)
        np.testing.assert_array_equal(ids[own], alone[0])
        np.testing.assert_array_equal(logprobs[own], alone[1])

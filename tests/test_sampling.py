"""20,000 draws from one distribution, against the probabilities by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import UserError
from jaxgpt.sampling import NOT_FINITE, choose, make_sampling

PROBABILITIES = np.array([0.30, 0.22, 0.14, 0.11, 0.09, 0.06, 0.05, 0.03])
DRAWS = 20_000
# By how much the sum of squares may exceed in one of a thousand runs, by degrees of freedom.
CHI_SQUARE = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47, 5: 20.52, 6: 22.46, 7: 24.32}


def drawn(seed: int = 0, allowed: np.ndarray | None = None, **options: float) -> np.ndarray:
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | options
    sampling = make_sampling(len(PROBABILITIES), **values, allowed=allowed)  # type: ignore[arg-type]
    keys = jax.random.split(jax.random.key(seed), DRAWS)
    logits = jnp.broadcast_to(jnp.log(PROBABILITIES) + 3.0, (DRAWS, len(PROBABILITIES)))
    ids, logprobs = jax.jit(choose)(logits, keys, sampling)
    np.testing.assert_allclose(np.exp(logprobs), reference(allowed=allowed)[ids], atol=1e-6)
    return np.bincount(ids, minlength=len(PROBABILITIES))


def reference(
    temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0, allowed: np.ndarray | None = None
) -> np.ndarray:
    """By hand: one filter after the other, each on what the last one left."""
    p = (PROBABILITIES * (1 if allowed is None else allowed)) ** (1 / temperature)
    p /= p.sum()
    if top_k:
        p = np.where(p >= np.sort(p)[-top_k], p, 0)
        p /= p.sum()
    order = np.argsort(-p)
    within = np.searchsorted(np.cumsum(p[order]), top_p - 1e-9) + 1
    p = np.where(np.isin(np.arange(len(p)), order[:within]), p, 0)
    p = np.where(p >= min_p * p.max(), p, 0)
    return np.asarray(p / p.sum())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 3},
        {"top_p": 0.6},
        {"min_p": 0.25},
        {"temperature": 1.5, "top_k": 6, "top_p": 0.8, "min_p": 0.1},
        {"allowed": np.array([1, 1, 0, 1, 1, 1, 0, 1], bool)},
    ],
    ids=str,
)
def test_draws_have_the_probabilities_that_one_computes_by_hand(options: dict) -> None:
    counts, expected = drawn(**options), DRAWS * reference(**options)
    assert not counts[expected == 0].any()
    possible = expected > 0
    excess = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert excess < CHI_SQUARE[possible.sum() - 1]


def test_temperature_0_takes_the_likeliest_that_is_allowed() -> None:
    assert drawn(temperature=0.0)[0] == DRAWS
    assert drawn(temperature=0.0, allowed=np.arange(8) > 0)[1] == DRAWS


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_never_a_token(broken: float) -> None:
    logits = jnp.log(jnp.array([PROBABILITIES, PROBABILITIES])).at[1, 3].set(broken)
    sampling = make_sampling(8, 1.0, 0, 1.0, 0.0, None)
    ids, _ = choose(logits, jax.random.split(jax.random.key(0)), sampling)
    assert ids[0] >= 0
    assert ids[1] == NOT_FINITE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0 (the likeliest token) or more, but is -1.0"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"top_k": 9}, "top_k must lie between 1 and the 8 ids there are, but is 9"),
        ({"top_k": -1}, "top_k must lie"),
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

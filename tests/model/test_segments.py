"""Rows of several texts: each is computed as if it were alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import UserError
from jaxgpt.model import assemble, exactly, params_of
from jaxgpt.model.positions import restarting
from tests.helpers import CONFIGS, PRIMES, random_model
from tests.model.test_attention_forms import EXACT, RULES, RUN, program, random_parts
from tests.model.test_attention_forms import exactly as attention_exactly

LENGTHS = (9, 1, 7)  # together the context
SEGMENTS = np.repeat([3, 1, 0], LENGTHS)[None]
IDS = np.random.default_rng(0).integers(0, PRIMES["vocab_size"], (1, sum(LENGTHS)))
BORDERS = np.cumsum(LENGTHS)[:-1]


def apart(row: np.ndarray) -> np.ndarray:
    """The texts of a `row` (1, T, ...), each at the start of a row of its own, with zeros after it."""
    rows = np.zeros((len(LENGTHS), *row.shape[1:]), row.dtype)
    for alone, text in zip(rows, np.split(row[0], BORDERS), strict=True):
        alone[: len(text)] = text
    return rows


def together(rows: np.ndarray) -> np.ndarray:
    """The inverse of `apart`."""
    texts = [row[:length] for row, length in zip(rows, LENGTHS, strict=True)]
    return np.concatenate(texts)[None]


@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
def test_logits_and_gradients_are_those_of_each_text_alone(fields: dict[str, Any]) -> None:
    """Where a text ends, zeros follow, which change nothing before them."""
    model = random_model(**fields)
    weights = np.random.default_rng(1).normal(size=(1, len(IDS[0]), PRIMES["vocab_size"]))

    def both(ids: np.ndarray, weights: np.ndarray, segments: Any) -> tuple[Any, np.ndarray]:
        def weighted(params: Any) -> tuple[jax.Array, jax.Array]:
            logits = assemble(model.config, params).logits(ids, segments_bt=segments)
            return (logits * weights).sum(), logits

        with exactly(model.dtype):
            gradients, logits = jax.jit(jax.grad(weighted, has_aux=True))(params_of(model))
        return gradients, np.asarray(logits)

    found, logits = both(IDS, weights, jnp.asarray(SEGMENTS))
    expected, rows = both(apart(IDS), apart(weights), None)
    alone = together(rows)
    np.testing.assert_allclose(logits, alone, rtol=0, atol=1e-12 * np.abs(alone).max())
    for mine, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        largest = max(1, np.abs(other).max())
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-11 * largest)


def test_a_model_that_is_called_keeps_texts_apart() -> None:
    model = random_model()
    alone = together(np.asarray(model(apart(IDS))))
    found = model(IDS, segments=SEGMENTS)
    np.testing.assert_allclose(found, alone, rtol=0, atol=1e-12 * np.abs(alone).max())


# Each form with no rule of the scores, and with every rule that it knows.
KEPT_APART = [
    *((form, rule) for form in EXACT for rule in ("groups", "all")),
    *(("splash", rule) for rule in ("groups", "window", "softcap")),
]


@pytest.mark.parametrize(("form", "rule"), KEPT_APART)
def test_every_form_keeps_texts_apart(form: str, rule: str) -> None:
    """Texts shorter and longer than a tile, and one of one position; no gradient crosses a border."""
    borders, length = [3, 4, 300, 450, 690], 700
    segments = np.repeat([4, 9, 2, 7, 1, 0], np.diff([0, *borders, length]))[None]
    with jax.enable_x64(form in EXACT):
        dtype = "float64" if form in EXACT else "float32"
        *parts, weight = [2 * part for part in random_parts(length, 16, dtype, group=3)]
        run = program(RUN[form], RULES[rule])
        ours = run(0.4, weight, *parts, segments)
        later = np.where(np.arange(length)[:, None, None, None] < 450, 0, weight)
        for gradient in map(np.asarray, run(0.4, later, *parts, segments)[1:]):
            assert np.abs(gradient[:, 450:]).max() > 0
            assert not gradient[:, :450].any()
    texts = zip(*(np.split(part, borders, axis=1) for part in (*parts, weight)), strict=True)
    alone = [attention_exactly(*text, 0.4, RULES[rule]) for text in texts]
    for mine, *theirs in zip(ours, *alone, strict=True):
        expected = np.concatenate(theirs, axis=1)
        atol = 1e-10 if form in EXACT else 4e-5 * max(1, np.abs(expected).max())
        np.testing.assert_allclose(mine, expected, rtol=0, atol=atol)


def test_positions_count_from_0_in_each_text() -> None:
    segments = jnp.asarray([[1, 1, 2, 3, 3, 3, 0], [4, 4, 4, 4, 4, 4, 4]])
    expected = [[0, 1, 0, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5, 6]]
    np.testing.assert_array_equal(restarting(segments), expected)


def test_segments_of_another_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"of shape \(1, 17\), one for each token, but .* \(17,\)"):
        random_model()(IDS, segments=SEGMENTS[0])

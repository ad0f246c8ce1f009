"""Rows of several texts: each is computed as if it were alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import UserError
from jaxgpt.model import assemble, exactly, params_of
from jaxgpt.model.attention_kernels import FORMS
from jaxgpt.model.positions import restarting
from tests.helpers import CONFIGS, PRIMES, random_model
from tests.model.test_attention_forms import EXACT, RULES, RUN, random_parts
from tests.model.test_attention_forms import exactly as attention_exactly

LENGTHS = (9, 1, 7)  # together the context
SEGMENTS = np.repeat([3, 1, 0], LENGTHS)[None]
IDS = np.random.default_rng(0).integers(0, PRIMES["vocab_size"], (1, sum(LENGTHS)))
BORDERS = np.cumsum(LENGTHS)[:-1]


@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
def test_logits_and_gradients_are_those_of_each_text_alone(fields: dict[str, Any]) -> None:
    model = random_model(**fields)
    weights = np.random.default_rng(1).normal(size=(1, len(IDS[0]), PRIMES["vocab_size"]))

    def packed(params: Any) -> tuple[jax.Array, jax.Array]:
        logits = assemble(model.config, params).logits(IDS, segments_bt=jnp.asarray(SEGMENTS))
        return (logits * weights).sum(), logits

    def separate(params: Any) -> tuple[jax.Array, jax.Array]:
        texts = np.split(IDS, BORDERS, axis=1)
        parts = [assemble(model.config, params).logits(text) for text in texts]
        logits = jnp.concatenate(parts, axis=1)
        return (logits * weights).sum(), logits

    with exactly(model.dtype):
        (found, logits), (expected, alone) = (
            jax.jit(jax.grad(each, has_aux=True))(params_of(model)) for each in (packed, separate)
        )
    for ours in (logits, model(IDS, segments=SEGMENTS)):
        np.testing.assert_allclose(ours, alone, rtol=0, atol=1e-12 * np.abs(alone).max())
    for mine, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        largest = max(1, np.abs(other).max())
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-11 * largest)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("form", RUN)
def test_every_form_keeps_texts_apart(form: str, rule: str) -> None:
    """Texts shorter and longer than a tile, and one of one position."""
    if form not in EXACT and RULES[rule].slopes is not None:
        pytest.skip("splash has no slopes")
    borders, length = [3, 4, 300, 450, 690], 700
    segments = np.repeat([4, 9, 2, 7, 1, 0], np.diff([0, *borders, length]))[None]
    with jax.enable_x64(form in EXACT):
        dtype = "float64" if form in EXACT else "float32"
        *parts, weight = [2 * part for part in random_parts(length, 16, dtype, group=3)]

        @jax.jit
        def run(weight: jax.Array, *parts: jax.Array) -> tuple[jax.Array, ...]:
            def attend(*parts: jax.Array) -> jax.Array:
                return RUN[form](*parts, 0.4, RULES[rule], jnp.asarray(segments))

            mixed, pull = jax.vjp(attend, *parts)
            return mixed, *pull(weight)

        ours = run(weight, *parts)
    texts = zip(*(np.split(part, borders, axis=1) for part in (*parts, weight)), strict=True)
    alone = [attention_exactly(*text, 0.4, RULES[rule]) for text in texts]
    for mine, *theirs in zip(ours, *alone, strict=True):
        expected = np.concatenate(theirs, axis=1)
        atol = 1e-10 if form in EXACT else 4e-5 * max(1, np.abs(expected).max())
        np.testing.assert_allclose(mine, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("form", EXACT)
def test_no_gradient_crosses_a_boundary(form: str) -> None:
    q, k, v, _ = random_parts(300, 8, "float32")
    segments = jnp.asarray(np.repeat([1, 2], [140, 160])[None])

    def later(k: Any, v: Any) -> Any:
        return FORMS[form](q, k, v, 0.3, RULES["groups"], segments)[:, 140:].sum()

    for gradient in jax.jit(jax.grad(later, argnums=(0, 1)))(k, v):
        assert np.abs(gradient[:, 140:]).max() > 0
        assert not np.asarray(gradient[:, :140]).any()


def test_positions_count_from_0_in_each_text() -> None:
    segments = jnp.asarray([[1, 1, 2, 3, 3, 3, 0], [4, 4, 4, 4, 4, 4, 4]])
    expected = [[0, 1, 0, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5, 6]]
    np.testing.assert_array_equal(restarting(segments), expected)


def test_segments_of_another_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"of shape \(1, 17\), one for each token, but .* \(17,\)"):
        random_model()(IDS, segments=SEGMENTS[0])

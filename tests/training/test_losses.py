"""The loss, which has its own backward pass, against the values and gradients of autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgpt.training.losses import cross_entropy


def plain(logits: jax.Array, targets: jax.Array, smoothing: float) -> jax.Array:
    """The cross-entropy with a distribution that has a share `smoothing` for all tokens alike."""
    count = logits.shape[-1]
    wanted = (1 - smoothing) * jax.nn.one_hot(targets, count, dtype=logits.dtype)
    return optax.softmax_cross_entropy(logits, wanted + smoothing / count)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_values_and_gradients_are_those_of_autodiff(smoothing: float) -> None:
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        logits, weights = 9 * rng.normal(size=(3, 5, 11)), rng.normal(size=(3, 5))
        targets = rng.integers(11, size=(3, 5))
        results = [
            jax.value_and_grad(lambda x, loss=loss: (loss(x, targets, smoothing) * weights).sum())(
                jnp.asarray(logits)
            )
            for loss in (cross_entropy, plain)
        ]
        np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-12)
        np.testing.assert_allclose(results[0][1], results[1][1], rtol=0, atol=1e-12)


def test_sums_are_float32_and_gradients_have_the_dtype_of_the_logits() -> None:
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7)), jnp.bfloat16)
    losses, pull = jax.vjp(lambda x: cross_entropy(x, jnp.array([3, 6])), logits)
    wide = plain(logits.astype(jnp.float32), jnp.array([3, 6]), 0.0)
    np.testing.assert_allclose(losses, wide, rtol=1e-6)
    (gradient,) = pull(jnp.ones(2))
    assert (losses.dtype, gradient.dtype) == (jnp.float32, jnp.bfloat16)


def test_a_step_stores_nothing_as_wide_as_the_vocabulary_except_logits() -> None:
    """Neither exponentials in float32 nor a scatter, which is what autodiff makes of the loss."""
    logits = jnp.zeros((4, 9), jnp.bfloat16)
    _, pull = jax.vjp(lambda x: cross_entropy(x, jnp.arange(4)).sum(), logits)
    wide = [leaf for leaf in jax.tree.leaves(pull) if leaf.shape == logits.shape]
    assert [leaf.dtype for leaf in wide] == [jnp.bfloat16]
    gradient = jax.make_jaxpr(jax.grad(lambda x: cross_entropy(x, jnp.arange(4)).sum()))(logits)
    assert "scatter" not in str(gradient)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.model.norms import normalised


def plain(x: jax.Array, eps: float) -> jax.Array:
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + eps)


def test_the_norms_own_backward_pass_is_the_derivative() -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, weight = (
            jnp.asarray(rng.normal(size=(4, 5, 7)) * 3 + 1),
            jnp.asarray(rng.normal(size=(4, 5, 7))),
        )
        for eps in (1e-5, 0.5):
            np.testing.assert_allclose(normalised(x, eps), plain(x, eps), rtol=0, atol=1e-13)
            ours, theirs = (
                jax.grad(lambda x, form=form, eps=eps: (form(x, eps) * weight).sum())(x)
                for form in (normalised, plain)
            )
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_a_large_mean_does_not_spoil_the_variance(offset: float) -> None:
    x = np.random.default_rng(0).normal(size=(3, 64)) * 1e-3
    expected = plain(jnp.asarray(x), 1e-5)
    atol = 1e-5 if offset == 0 else 0.5  # float32 itself keeps three digits less of x there
    assert np.abs(normalised(jnp.asarray(x + offset, jnp.float32), 1e-5) - expected).max() < atol


def test_half_precision_sums_in_float32() -> None:
    x = np.random.default_rng(0).normal(size=(2, 1000)) + 10
    halves = normalised(jnp.asarray(x, jnp.bfloat16), 1e-5)
    assert halves.dtype == jnp.bfloat16
    assert np.abs(halves.astype(jnp.float32) - plain(jnp.asarray(x), 1e-5)).max() < 0.1

"""The blockwise form against the plain one, which is written out here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.attention import attend


def plain(q: jax.Array, k: jax.Array, v: jax.Array, scale: float) -> jax.Array:
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) * scale
    past = np.tril(np.ones(scores.shape[-2:], bool))
    return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(jnp.where(past, scores, -jnp.inf)), v)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 128, 300])
def test_outputs_and_gradients_agree_at_every_length(length: int) -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(length)
        q, k, v, weight = (jnp.asarray(rng.normal(size=(2, length, 3, 5)) * 3) for _ in range(4))
        expected = plain(q, k, v, 0.4)
        np.testing.assert_allclose(jax.jit(attend)(q, k, v, 0.4), expected, rtol=0, atol=1e-12)
        ours, theirs = (
            jax.jit(jax.grad(lambda *x, form=form: (form(*x, 0.4) * weight).sum(), argnums=(0, 1, 2)))(q, k, v)
            for form in (attend, plain)
        )
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, other, rtol=0, atol=1e-10)


def test_large_scores_do_not_overflow() -> None:
    q = jnp.full((1, 70, 1, 4), 100.0)
    assert np.isfinite(attend(q, q, q, 1.0)).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_stays_near(dtype: jnp.dtype) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 130, 3, 8)), jnp.float32) for _ in range(3))
    halves = attend(q.astype(dtype), k.astype(dtype), v.astype(dtype), 0.35)
    assert halves.dtype == dtype
    np.testing.assert_allclose(halves.astype(jnp.float32), plain(q, k, v, 0.35), atol=0.03)

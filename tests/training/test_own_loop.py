"""Loops of one's own: the compiled step is that of a run, and a model is a pytree for optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgpt
from jaxgpt.errors import UserError
from jaxgpt.pytree import flatten
from jaxgpt.training.step import init_state, make_step
from tests.helpers import random_pair
from tests.training.test_step import MODEL, config, ids

TRAIN = {"steps": 10, "batch_size": 8, "accumulate": 2}


def arrays(tree: object) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in flatten(tree).items()}  # type: ignore[arg-type]


def test_the_compiled_step_is_that_of_a_run() -> None:
    """Bit for bit, from the weights of a model, which stays as it is."""
    model = jaxgpt.GPT(MODEL, seed=3)
    before = arrays(jaxgpt.params_of(model))
    step, state = jaxgpt.compiled_step(model, train=TRAIN, optim={"warmup_steps": 0, "ema": 0.9})
    run = config(train__accumulate=2, optim__ema=0.9)
    theirs = init_state(run, jaxgpt.params_of(jaxgpt.GPT(MODEL, seed=3)))
    one = jax.jit(make_step(run))
    for seed in range(3):
        batch = ids(seed, parts=2)
        state, metrics = step(state, np.asarray(batch).reshape(8, 12))
        theirs, expected = one(theirs, batch)
        np.testing.assert_allclose(metrics, expected, rtol=1e-6)
    assert int(state.step) == 3
    for name in ("params", "ema"):
        ours = arrays(getattr(state, name))
        for path, array in arrays(getattr(theirs, name)).items():
            np.testing.assert_allclose(ours[path], array, rtol=0, atol=2e-6, err_msg=path)
    after = arrays(jaxgpt.params_of(model))
    assert all((after[path] == array).all() for path, array in before.items())
    assert any((arrays(state.params)[path] != array).any() for path, array in before.items())


def test_a_batch_that_does_not_fit_is_refused() -> None:
    step, state = jaxgpt.compiled_step(jaxgpt.GPT(MODEL), train=TRAIN)
    with pytest.raises(UserError, match=r"shape \(8, T \+ 1\) .* but has \(4, 12\)"):
        step(state, ids()[0, :4])
    wrong = np.asarray(ids()[0]).copy()
    for column in (0, 5, 11):  # the first is only read, and the last only predicted
        bad = wrong.copy()
        bad[1, column] = 23
        with pytest.raises(UserError, match="Token id 23 at row 1"):
            step(state, bad)
    with pytest.raises(UserError, match="13 tokens does not fit the context length 11"):
        step(state, np.zeros((8, 14), int))


def test_settings_are_checked_as_those_of_a_run() -> None:
    model = jaxgpt.GPT(MODEL)
    with pytest.raises(UserError, match=r"optim.*learnig_rate. Did you mean learning_rate\?"):
        jaxgpt.compiled_step(model, optim={"learnig_rate": 1})
    with pytest.raises(UserError, match="batch_size 8 does not divide into accumulate 3"):
        jaxgpt.compiled_step(model, train={"batch_size": 8, "accumulate": 3})
    with pytest.raises(UserError, match="takes a GPT, but got a Seq2Seq"):
        jaxgpt.compiled_step(random_pair("float32"))  # type: ignore[arg-type]


def test_a_model_is_a_pytree_for_grad_and_optax() -> None:
    """The gradient by the model is that by its parameters, and optax moves the model by it."""
    model, batch = jaxgpt.GPT(MODEL, seed=1), ids()[0]

    def loss(model: jaxgpt.GPT) -> jax.Array:
        logits = model.logits(batch[:, :-1])
        losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:])
        return losses.mean()

    gradient = jax.grad(loss)(model)
    by_params = jax.grad(lambda params: loss(jaxgpt.assemble(MODEL, params)))
    expected = arrays(by_params(jaxgpt.params_of(model)))
    actual = arrays(jaxgpt.params_of(gradient))
    assert actual.keys() == expected.keys()
    assert all((actual[path] == array).all() for path, array in expected.items())
    optimizer = optax.sgd(0.1)
    updates, _ = optimizer.update(gradient, optimizer.init(model), model)
    moved = optax.apply_updates(model, updates)
    assert isinstance(moved, jaxgpt.GPT)
    kernel = jaxgpt.params_of(model)["head"]["kernel"] - 0.1 * actual["head/kernel"]
    np.testing.assert_allclose(jaxgpt.params_of(moved)["head"]["kernel"], kernel, atol=1e-7)
    assert float(loss(moved)) < float(loss(model))
    assert jnp.asarray(moved([[1, 2]])).shape == (1, 2, 23)

"""User-written loops: the compiled step is that of a run, and a model is a pytree for optax."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgpt
from jaxgpt.data.pair_batches import PairBatch
from jaxgpt.errors import UserError
from jaxgpt.pytree import flatten
from jaxgpt.training.step import init_state, make_step
from tests.helpers import random_pair
from tests.training.test_step import MODEL, config, ids

TRAIN = {"steps": 10, "batch_size": 8, "accumulate": 2}


def arrays(tree: object) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in flatten(tree).items()}  # type: ignore[arg-type]


def test_the_compiled_step_is_that_of_a_run() -> None:
    """Bit for bit, from the weights of a model, which is not changed."""
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


def test_settings_are_checked_like_those_of_a_run() -> None:
    model = jaxgpt.GPT(MODEL)
    with pytest.raises(UserError, match=r"optim.*learnig_rate. Did you mean learning_rate\?"):
        jaxgpt.compiled_step(model, optim={"learnig_rate": 1})
    with pytest.raises(UserError, match="batch_size 8 does not divide into accumulate 3"):
        jaxgpt.compiled_step(model, train={"batch_size": 8, "accumulate": 3})
    with pytest.raises(UserError, match="takes a GPT or a Seq2Seq, but got a dict"):
        jaxgpt.compiled_step(jaxgpt.params_of(model))  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def pair() -> jaxgpt.Seq2Seq:
    return random_pair("float32")


def pairs(seed: int = 0) -> dict[str, Any]:
    """Sources and targets of several lengths, padded."""
    random = np.random.default_rng(seed)
    return {
        "source": random.integers(0, 61, (8, 9)),
        "ids": random.integers(0, 103, (8, 7)),
        "source_mask": np.arange(9) < random.integers(1, 10, (8, 1)),
        "mask": np.arange(7) < random.integers(2, 8, (8, 1)),
    }


def test_the_compiled_step_of_a_pair_is_that_of_a_run(pair: jaxgpt.Seq2Seq) -> None:
    step, state = jaxgpt.compiled_step(pair, train=TRAIN, optim={"warmup_steps": 0})
    run = dataclasses.replace(
        config(train__accumulate=2), model=pair.config.decoder, encoder=pair.config.encoder
    )
    theirs, one = init_state(run, jaxgpt.params_of(pair)), jax.jit(make_step(run))
    for seed in range(2):
        batch = pairs(seed)
        state, metrics = step(state, **batch)
        ids, mask = batch["ids"], batch["mask"]
        arrays_of_run = batch["source"], batch["source_mask"], ids[:, :-1], ids[:, 1:], mask[:, 1:]
        parts = PairBatch(*(each.reshape(2, 4, -1) for each in arrays_of_run))
        theirs, expected = one(theirs, parts)
        np.testing.assert_allclose(metrics, expected, rtol=1e-6)
    found = arrays(state.params)
    for path, array in arrays(theirs.params).items():
        np.testing.assert_allclose(found[path], array, rtol=0, atol=2e-6, err_msg=path)
    trained = jaxgpt.assemble(pair.config, state.params)
    assert isinstance(trained, jaxgpt.Seq2Seq)


def test_padding_changes_nothing_in_the_step_of_a_pair(pair: jaxgpt.Seq2Seq) -> None:
    """Nor does leaving out the masks if nothing is padding."""
    train = {"steps": 10, "batch_size": 8}
    batch, losses = pairs(), []
    other = {name: np.where(batch[f"{prefix}mask"], batch[name], 5)
             for name, prefix in (("source", "source_"), ("ids", ""))}  # fmt: skip
    for given in (batch, {**batch, **other}):
        step, state = jaxgpt.compiled_step(pair, train=train)
        losses.append(float(step(state, **given)[1].loss))
    assert losses[0] == losses[1]
    _, state = jaxgpt.compiled_step(pair, train=train)
    _, metrics = step(state, batch["source"], batch["ids"])
    logp = jaxgpt.score(pair, batch["ids"], batch["source"])
    assert float(metrics.loss) == pytest.approx(-logp.mean(), rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": np.full((8, 9), 61)}, "vocabulary of 61"),
        ({"ids": np.zeros((4, 7), int)}, r"shape \(8, T \+ 1\) .* but has \(4, 7\)"),
        ({"source_mask": np.ones((8, 8), bool)}, r"of shape \(8, 9\) with 8 rows"),
        ({"source": np.zeros((4, 9), int), "source_mask": None}, r"\(4, 9\) with 8 rows"),
        ({"mask": np.ones((8, 6), bool)}, r"of their shape, \(8, 7\).* but is bool \(8, 6\)"),
        ({"mask": np.arange(7) < np.ones((8, 1))}, "with 0 such ids"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(
    pair: jaxgpt.Seq2Seq, changes: dict[str, Any], message: str
) -> None:
    step, state = jaxgpt.compiled_step(pair, train={"steps": 10, "batch_size": 8})
    with pytest.raises(UserError, match=message):
        step(state, **{**pairs(), **changes})


def test_a_model_is_a_pytree_for_grad_and_optax() -> None:
    """The gradient with respect to the model is that of its parameters, and optax applies it."""
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

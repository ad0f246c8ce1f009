"""Logits and a training step of every choice in ModelConfig, against the same model in plain torch."""

import types
import typing
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgpt.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig
from jaxgpt.model import assemble, exactly, params_of
from jaxgpt.pytree import Tree, flatten
from jaxgpt.training.optimizer import make_optimizer
from tests.helpers import CONFIGS, PRIMES, random_model
from tests.model import plain_decoder

IDS = np.random.default_rng(0).integers(0, PRIMES["vocab_size"], (4, PRIMES["context_length"] + 1))


@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
def test_logits_and_a_training_step_are_those_of_plain_torch(fields: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model = random_model(**fields)
    # With a large eps an update shows how large the gradient is, and not only its sign.
    optim = OptimConfig(
        learning_rate=0.1, schedule="constant", warmup_steps=0, eps=0.1, weight_decay=0.1,
        decay="all", clip_norm=0.0,
    )  # fmt: skip
    optimizer = make_optimizer(
        Config(DataConfig("x"), RunConfig("x"), model=model.config, optim=optim)
    )

    @jax.jit
    def step(params: Tree, ids: jax.Array) -> tuple[jax.Array, Tree]:
        def loss(params: Tree) -> tuple[jax.Array, jax.Array]:
            logits = assemble(model.config, params).logits(ids[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, ids[:, 1:]
            ).mean(), logits

        gradients, logits = jax.grad(loss, has_aux=True)(params)
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        return logits, optax.apply_updates(params, updates)

    with exactly(model.dtype):
        logits, after = step(params_of(model), jnp.asarray(IDS))
    before = {path: np.array(leaf) for path, leaf in flatten(params_of(model)).items()}
    theirs = {path: torch.tensor(leaf, requires_grad=True) for path, leaf in before.items()}
    if model.config.positions_stored:
        theirs["pos_embedding/embedding"].requires_grad_(False)
    expected = plain_decoder.logits(model.config, theirs, torch.from_numpy(IDS[:, :-1]))
    largest = expected.detach().abs().max().item()
    np.testing.assert_allclose(logits, expected.detach(), rtol=0, atol=1e-12 * largest)
    torch.nn.functional.cross_entropy(
        expected.flatten(0, 1), torch.from_numpy(IDS[:, 1:]).flatten()
    ).backward()
    torch.optim.AdamW(theirs.values(), lr=0.1, eps=0.1, weight_decay=0.1).step()
    for path, leaf in flatten(after).items():
        np.testing.assert_allclose(leaf, theirs[path].detach(), rtol=0, atol=1e-8, err_msg=path)
        assert (leaf.tobytes() != before[path].tobytes()) == (theirs[path].grad is not None), path


def choices(hint: Any) -> set[Any]:
    """All values of a field that has a few."""
    if hint is bool:
        return {True, False}
    if typing.get_origin(hint) is types.UnionType:
        return set().union(*map(choices, typing.get_args(hint)))
    return set(typing.get_args(hint)) if typing.get_origin(hint) is Literal else set()


def test_no_choice_is_left_out() -> None:
    configs = [
        vars(ModelConfig(**{**PRIMES, "dropout": 0.0, **fields})) for fields in CONFIGS.values()
    ]
    fields = typing.get_type_hints(ModelConfig)
    for name, hint in fields.items():
        if name in ("cross_attention", "shares_embedding"):
            continue  # of encoder-decoders, which test_seq2seq compares with torch
        if name in ("qkv_order", "gate_order"):
            continue  # of files alone; the model computes the same with each
        made = {config[name] for config in configs}
        assert made >= choices(hint), name
        assert len(made) > 1 or name in {*PRIMES, "dropout"}, name

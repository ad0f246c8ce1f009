"""A model learns answers: its loss counts nothing else, and it generates them."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import ComputeConfig
from jaxgpt.data.prepare_answers import prepare_answers
from jaxgpt.data.windows import Windows, split_of
from jaxgpt.model import exactly, params_of
from jaxgpt.training.compute import Compute
from jaxgpt.training.losses import cross_entropy
from jaxgpt.training.run import train
from jaxgpt.training.step import make_eval_step
from tests.helpers import random_model

WORDS = ["".join(word) for word in itertools.product("abcd", repeat=3)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    words = [WORDS[i] for i in np.random.default_rng(0).permutation(len(WORDS))]
    lines = [{"prompt": f"reverse: {word}=", "answer": word[::-1]} for word in words]
    path = tmp_path / "words.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("pack", ["off", "restart"])
def test_the_loss_counts_only_the_answers(pack: str, source: Path, tmp_path: Path) -> None:
    data = prepare_answers([str(source)], tmp_path / "data")
    model = random_model(vocab_size=data.vocab_size, context_length=40)
    split = split_of(data, "train", 40, pack)
    assert isinstance(split, Windows)
    numbers = np.arange(3)
    batch = split.rows(numbers)
    expected = 0.0
    for number in numbers:
        for start, stop in split._spans(*split.firsts[number : number + 2]):
            text, size = data.train[start:stop].astype(np.int32), len("cba\n")
            logits = np.asarray(model(text[None, :-1]))[0, -size:]
            log_sums = np.log(np.exp(logits).sum(-1))
            expected += (log_sums - logits[np.arange(size), text[-size:]]).sum()
    with exactly(model.dtype):
        compute = Compute(ComputeConfig(dtype="float32"))
        loss = make_eval_step(model.config, compute)(params_of(model), batch)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_targets_within_a_prompt_give_no_gradient(source: Path, tmp_path: Path) -> None:
    data = prepare_answers([str(source)], tmp_path / "data")
    split = split_of(data, "train", 40, "restart")
    assert isinstance(split, Windows)
    batch = split.rows(np.arange(2))
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 40, data.vocab_size)))

    def loss(logits: jax.Array) -> jax.Array:
        losses_bt = cross_entropy(logits, jnp.asarray(batch.targets_bt))
        return jnp.sum(losses_bt, where=jnp.asarray(batch.target_mask_bt))

    moved = np.abs(jax.grad(loss)(logits)).max(-1) > 0
    np.testing.assert_array_equal(moved, batch.target_mask_bt)
    answered = np.count_nonzero(batch.target_mask_bt) / len("cba\n")
    assert answered == sum(len(set(row) - {0}) for row in batch.segments_bt.tolist())


@pytest.mark.parametrize("pack", ["off", "restart"])
def test_a_tuned_model_writes_the_right_answer(
    pack: str, source: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    run, said = str(tmp_path / "run"), []
    rows = 24 if pack == "off" else 8
    train(
        {
            "data": {"path": str(source), "pack": pack},
            "run": {"dir": run},
            "model": {
                "context_length": 17 if pack == "off" else 51,
                "model_dim": 32,
                "num_blocks": 2,
                "num_heads": 4,
                "dropout": 0.0,
            },
            "optim": {"learning_rate": 1e-2},
            "train": {
                "steps": 250,
                "batch_size": rows,
                "eval_every": 250,
                "log_every": 250,
                "sample_tokens": 0,
            },
        },
        "here",
        said.append,
    )
    assert "57 examples to train on, 7 to validate" in said[0]
    for word in ("abc", "dca"):
        shown = command(
            "jaxgpt", "sample", run, "--prompt", f"reverse: {word}=", "--temperature", "0",
            "--stop", "\n", "--tokens", "6",
        )  # fmt: skip
        assert shown.out.strip().removeprefix(f"reverse: {word}=") == word[::-1]
    line = command("jaxgpt", "eval", run).out
    assert "per token of the answers" in line
    assert "7 examples of" in line

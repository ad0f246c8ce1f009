"""What happens between steps, and how a run reacts to a bad step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.data.batches import batch
from jaxgpt.data.prepare import prepare
from jaxgpt.data.tokenizer_files import load as load_tokenizer
from jaxgpt.errors import UserError
from jaxgpt.model import GPT, params_of
from jaxgpt.storage import model_directory, run_directory
from jaxgpt.training import checkpoints, evaluators, step
from jaxgpt.training.loop import Loop
from jaxgpt.training.run import train
from jaxgpt.training.step import besides_weights, weights_to_evaluate
from tests.helpers import TEXT, settings


def test_a_checkpoint_holds_the_whole_state(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_states: list[Any] = []
    original = Loop.save

    def save(self: Loop, state: Any, *rest: Any) -> None:
        saved_states.append(state)
        original(self, state, *rest)

    monkeypatch.setattr(Loop, "save", save)
    for ema in (0.0, 0.5):
        run = train(
            settings(text, tmp_path / f"run{ema}", optim={"ema": ema}), "here", lambda line: None
        ).directory
        opened = model_directory.ModelDirectory(run_directory.checkpoints(run)[-1])
        state = saved_states[-1]
        beside = besides_weights(state)
        assert set(beside) == {"step", "optimizer", *(["params"] if ema else [])}
        where = jax.tree.map(lambda leaf: leaf.sharding, beside)
        pairs = [
            (beside, opened.state(beside, where)),
            (weights_to_evaluate(state), opened.params()),
        ]
        for saved, found in pairs:
            for a, b in zip(*map(jax.tree.leaves, (saved, found)), strict=True):
                np.testing.assert_array_equal(a, b)


def test_one_compilation_serves_the_whole_run(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[str] = []

    def counting(name: str, make: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any) -> Any:
            function = make(*arguments)
            return lambda *inputs: (traced.append(name), function(*inputs))[1]

        return made

    for module, name in ((step, "make_step"), (evaluators, "make_eval_step")):
        monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    train(settings(text, tmp_path / "run", train={"accumulate": 2}), "here", lambda line: None)
    assert sorted(traced) == ["make_eval_step", "make_step"]


@pytest.fixture
def rare(tmp_path: Path) -> dict[str, Any]:
    """A run from a model that overflows on one letter, which occurs only in the fifth batch."""
    text = tmp_path / "rare.txt"
    text.write_text("".join("Z" if i == 700 else letter for i, letter in enumerate(TEXT)))
    data = prepare([str(text)], tmp_path / "data")
    tokenizer = load_tokenizer(data.path / "tokenizer.json")
    (letter,) = tokenizer.encode("Z")

    def first_step(seed: int) -> int:
        """The step whose batch has the letter; its last column is only a target."""
        batches = (
            batch(data.train, seed=seed, step=i, batch_size=4, context_length=16) for i in range(99)
        )
        return next((i for i, ids in enumerate(batches, 1) if (ids == letter).any()), 99)

    seed = next(seed for seed in range(999) if first_step(seed) == 5)
    model = ModelConfig(data.vocab_size, 16, 12, 2, 2, dropout=0.1)
    params = params_of(GPT(model, seed=1))
    table = params["token_embedding"]["embedding"]
    params["token_embedding"]["embedding"] = table.at[letter].set(3e38)
    model_directory.save(tmp_path / "model", model, params, tokenizer=tokenizer)
    made = settings(
        data.path,
        tmp_path / "run",
        train={"seed": seed, "save_every": 1, "log_every": 1, "steps": 8},
    )
    return {**made, "run": {**made["run"], "init": str(tmp_path / "model")}}


def test_a_non_finite_loss_stops_the_run_before_it_does_harm(
    rare: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(
        UserError,
        match=r"At step 5 the loss is nan. The last good .* Try a lower optim.learning_rate",
    ):
        train(rare, "here", lambda line: None)
    opened = model_directory.ModelDirectory(run_directory.checkpoints(tmp_path / "run")[-1])
    assert opened.path.name == "step-00000004"
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(opened.params()))
    assert [line["step"] for line in run_directory.read_metrics(tmp_path / "run")] == [1, 2, 3, 4]


def test_a_non_finite_loss_may_be_skipped(rare: dict[str, Any], tmp_path: Path) -> None:
    said: list[str] = []
    rare["train"]["skip_nonfinite"] = 1
    train(rare, "here", said.append)
    assert "Step 5 was skipped: its loss is nan and its gradient norm is nan." in said
    metrics = run_directory.read_metrics(tmp_path / "run")
    assert [line["loss"] is None for line in metrics] == [n == 5 for n in range(1, 9)]
    opened = model_directory.ModelDirectory(tmp_path / "run")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(opened.params()))


def test_the_number_of_skipped_steps_survives_an_interruption(text: Path, tmp_path: Path) -> None:
    """Otherwise a run that is restarted again and again could skip any number of steps."""
    endless = settings(
        text,
        tmp_path / "run",
        optim={
            "learning_rate": 1e30,
            "final_learning_rate": 1e30,
            "warmup_steps": 0,
            "clip_norm": 0.0,
        },
        train={"steps": 40, "skip_nonfinite": 6, "save_every": 1, "eval_every": 40},
    )
    for _ in range(2):
        with pytest.raises(UserError, match="At step 8 the .* 7 steps in a row"):
            train(endless, "here", lambda line: None)


def test_a_picture_that_cannot_be_drawn_is_reported_and_the_run_continues(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise ValueError("no\nsuch backend")

    monkeypatch.setattr(checkpoints.plots, "INSTALLED", True)
    monkeypatch.setattr(checkpoints.plots, "draw_losses", fail)
    said: list[str] = []
    train(settings(text, tmp_path / "run"), "here", said.append)
    assert f"{tmp_path / 'run' / 'loss.png'} was not drawn: no such backend" in said
    assert len(run_directory.checkpoints(tmp_path / "run")) == 2


def test_text_is_written_at_each_evaluation(text: Path, tmp_path: Path) -> None:
    said: list[str] = []
    run = train(
        settings(text, tmp_path / "run", train={"sample_tokens": 30}), "here", said.append
    ).directory
    metrics = run_directory.read_metrics(run)
    assert [len(line.get("sample", "")) for line in metrics] == [0, 30, 30]
    assert set(metrics[-1]["sample"]) <= set(TEXT)
    assert "    | " + metrics[-1]["sample"].replace("\n", "\n    | ") in said

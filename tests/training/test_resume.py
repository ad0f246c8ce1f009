"""A run resumes where it stopped, or says why not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxgpt.commands.run_ending import ending
from jaxgpt.data.prepare import prepare
from jaxgpt.errors import UserError
from jaxgpt.storage import model_directory, run_directory
from jaxgpt.training.run import train
from tests.helpers import TEXT, settings


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps, with checkpoints at 4 and 6, to be copied."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "wood.txt").write_text(TEXT)
    return train(settings(folder / "wood.txt", folder / "run"), "here", lambda line: None).directory


@pytest.fixture
def again(stopped: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """A function (**sections) -> the lines printed when the run resumes with them, for 8 steps, and
    those at its end."""
    run = tmp_path / "run"
    shutil.copytree(stopped, run)

    def call(**sections: Any) -> list[str]:
        said: list[str] = []
        longer = {**sections, "train": {"steps": 8, **sections.get("train", {})}}
        finished = train(settings(stopped.parent / "wood.txt", run, **longer), "here", said.append)
        return [*said, ending(finished)]

    return call


def test_it_resumes_and_lists_the_changed_settings(
    again: Callable[..., list[str]], tmp_path: Path
) -> None:
    said = again(
        optim={"learning_rate": 5e-4, "clip_norm": 0.0, "decay": "all"}, model={"dropout": 0.0}
    )
    listed = [
        line.removeprefix("Changed since the run stopped: ")
        for line in said
        if line.startswith("Changed")
    ]
    assert listed == [
        "model.dropout was 0.1 and is 0.0",
        "optim.learning_rate was 0.001 and is 0.0005",
        "optim.decay was matrices and is all",
        "optim.clip_norm was 1.0 and is 0.0",
        "train.steps was 6 and is 8",
    ]
    assert any(
        f"resuming from {tmp_path / 'run' / 'checkpoints' / 'step-00000006'}" in line
        for line in said
    )
    assert [line["step"] for line in run_directory.read_metrics(tmp_path / "run")] == [2, 4, 6, 8]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["train"]["steps"] == 8


def test_another_architecture_is_refused_with_every_difference(
    again: Callable[..., list[str]], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refusal:
        again(model={"num_blocks": 3, "model_dim": 16, "activation": "gelu"})
    for difference in (
        "num_blocks is 2",
        "3 in the config",
        "model_dim is 12",
        "activation is relu",
        "head_dim is 6",
    ):
        assert difference in str(refusal.value)
    assert len(run_directory.read_metrics(tmp_path / "run")) == 3


def test_ema_cannot_be_switched_on_or_off(again: Callable[..., list[str]]) -> None:
    with pytest.raises(
        UserError, match=r"optim.ema is 0.5, but .* was saved without an average of the weights"
    ):
        again(optim={"ema": 0.5})


def test_another_text_is_refused_and_other_data_are_listed(
    again: Callable[..., list[str]], stopped: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text(TEXT.replace("wood", "dowo"))
    with pytest.raises(
        UserError, match=r"was trained on the text of .*other.txt.*begin another run with --init"
    ):
        again(data={"path": str(other)})
    prepare([str(other)], tmp_path / "other", tokenizer=str(stopped / "data" / "tokenizer.json"))
    said = again(data={"path": str(tmp_path / "other")})
    assert any("data.path was" in line for line in said)
    assert any("data_sha256 was" in line for line in said)


def test_a_damaged_newest_checkpoint_is_skipped_for_the_one_before(
    again: Callable[..., list[str]], stopped: Path, tmp_path: Path
) -> None:
    """The resumed steps have the same bits as if the checkpoint had been intact."""
    run = tmp_path / "run"
    (run / "checkpoints" / "step-00000006" / "state" / "_METADATA").write_text("{}")
    said = again(train={"steps": 6})
    assert any(line.startswith("WARNING: ") and "state/_METADATA" in line for line in said)
    one, other = (
        model_directory.ModelDirectory(run_directory.checkpoint_of(path, 6))
        for path in (run, stopped)
    )
    jax.tree.map(np.testing.assert_array_equal, one.params(), other.params())
    metrics = (
        [line["loss"] for line in run_directory.read_metrics(path)] for path in (run, stopped)
    )
    assert next(metrics) == next(metrics)
    assert (run / "checkpoints" / "damaged-step-00000006").exists()


def test_a_run_that_is_done_has_nothing_left_to_do(
    again: Callable[..., list[str]], tmp_path: Path
) -> None:
    before = sorted(
        (path, path.stat().st_mtime_ns) for path in (tmp_path / "run").rglob("*") if path.suffix
    )
    said = again(train={"steps": 6})
    assert "has had 6 steps, and train.steps is 6: there is nothing left to do" in said[0]
    assert before == sorted(
        (path, path.stat().st_mtime_ns) for path in (tmp_path / "run").rglob("*") if path.suffix
    )


def test_a_run_killed_before_its_first_checkpoint_starts_over(
    again: Callable[..., list[str]], tmp_path: Path
) -> None:
    """With the data that were prepared for it, unless other data are named."""
    run = tmp_path / "run"
    shutil.rmtree(run / "checkpoints")
    prepared = (run / "data" / "data.json").stat().st_mtime_ns
    assert any("starting from random weights" in line for line in again(train={"steps": 6}))
    assert (run / "data" / "data.json").stat().st_mtime_ns == prepared
    assert [line["step"] for line in run_directory.read_metrics(run)] == [2, 4, 6]


def test_a_run_killed_while_it_removed_its_data_starts_over(
    again: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    for path in (run / "checkpoints", run / "config.json"):  # so that nothing says whose data it is
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with monkeypatch.context() as patch:

        def half(folder: Path) -> None:
            (folder / "data.json").unlink()
            raise KeyboardInterrupt

        patch.setattr(shutil, "rmtree", half)
        with pytest.raises(KeyboardInterrupt):
            again(train={"steps": 6})
    assert not (run / "data").exists()
    again(train={"steps": 6})
    assert [line["step"] for line in run_directory.read_metrics(run)] == [2, 4, 6]


def test_a_run_killed_before_it_discarded_a_checkpoint_does_so_on_restart(
    again: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert len(run_directory.checkpoints(tmp_path / "run")) == 2
    best = run_directory.best(tmp_path / "run")
    again(train={"steps": 6, "keep": 1})
    newest = run_directory.checkpoint_of(tmp_path / "run", 6)
    assert {*run_directory.checkpoints(tmp_path / "run")} == {best, newest}


def test_it_resumes_without_the_model_it_started_from(stopped: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(stopped, first)
    said: list[str] = []
    sections = settings(stopped / "data", tmp_path / "tuned")
    sections["data"] = {"path": str(stopped / "data")}
    sections["run"] = {"dir": str(tmp_path / "tuned"), "init": str(first)}
    train({**sections, "model": {"dropout": 0.0}}, "here", said.append)
    shutil.rmtree(first)
    longer = {**sections, "model": {"dropout": 0.0}, "train": {**sections["train"], "steps": 8}}
    train(longer, "here", said.append)
    assert any("step-00000006; compiling" in line for line in said)


def test_a_run_may_be_complete_without_an_evaluation(
    again: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "run" / "metrics.jsonl").unlink()
    said = again(train={"steps": 4})
    assert "there is nothing left to do" in said[1]
    assert "loss unknown, best validation loss unknown" in said[2]
    assert "the same command with --train.steps 12" in said[2]


def test_a_data_folder_that_the_run_did_not_write_is_left_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "data").mkdir(parents=True)
    (run / "data" / "wood.txt").write_text(TEXT)
    (run / run_directory.LOCK).write_text(run_directory.MARK)
    with pytest.raises(
        UserError, match="is where this run would prepare its data, but holds something else"
    ):
        train(settings(run / "data" / "wood.txt", run), "here", lambda line: None)
    assert (run / "data" / "wood.txt").read_text() == TEXT

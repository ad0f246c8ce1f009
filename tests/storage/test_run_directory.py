"""A run's directory, tested with minimal checkpoints."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxgpt.errors import UserError
from jaxgpt.storage import run_directory
from jaxgpt.system import directories, json_files

MODEL = {"num_blocks": 2, "model_dim": 12, "num_heads": 3}


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A function (name, {step: val_loss}) -> a run with these checkpoints."""

    def make(name: str, val_losses: dict[int, float | None]) -> Path:
        run = tmp_path / "runs" / name
        for step, loss in val_losses.items():
            with directories.new_directory(run_directory.checkpoint_of(run, step)) as partial:
                json_files.write_json(partial / run_directory.CONFIG, {"val_loss": loss})
            run_directory.append_metrics(
                run, {"step": step, "loss": 2.0, **({"val_loss": loss} if loss else {})}
            )
        config = {"origin": "configs/wood.toml", "model": MODEL, "train": {"steps": 30}}
        json_files.write_json(run / run_directory.CONFIG, config)
        return run

    return make


@pytest.mark.parametrize(
    ("val_losses", "newest", "best", "kept"),
    [
        ({10: 3.0, 20: 2.0, 30: 2.5}, 1, 20, [20, 30]),
        ({10: 3.0, 20: 2.0, 30: 2.5, 40: 2.6}, 2, 20, [20, 30, 40]),
        ({10: 2.0, 20: None, 30: None, 40: None}, 1, 10, [10, 40]),
        ({10: None, 20: None}, 1, 20, [20]),
        ({10: 2.0, 20: 2.0}, 1, 20, [20]),
    ],
)
def test_the_best_and_the_newest_are_kept(
    val_losses: dict[int, float | None],
    newest: int,
    best: int,
    kept: list[int],
    make_run: Callable[..., Path],
) -> None:
    run = make_run("run", val_losses)
    assert run_directory.best(run) == run_directory.checkpoint_of(run, best)
    run_directory.keep(run, newest)
    assert sorted((run / run_directory.CHECKPOINTS).iterdir()) == [
        run_directory.checkpoint_of(run, step) for step in kept
    ]
    assert run_directory.best(run) == run_directory.checkpoint_of(run, best)


def test_a_run_belongs_to_one_process_which_cleans_it_up(make_run: Callable[..., Path]) -> None:
    run = make_run("run", {10: 3.0})
    leftover, hidden = (
        run / run_directory.CHECKPOINTS / ".step-00000020.partial-x1y2",
        run / ".loss.png.partial-77",
    )
    leftover.mkdir()
    hidden.write_text("half")
    with run_directory.locked_run(run):
        assert not leftover.exists()
        assert not hidden.exists()
        assert run_directory.summary(run).state == "running"
        with (
            pytest.raises(UserError, match="run is being trained by another process"),
            run_directory.locked_run(run),
        ):
            pass
    with run_directory.locked_run(run):
        pass
    assert run_directory.checkpoints(run) == [run_directory.checkpoint_of(run, 10)]


@pytest.mark.parametrize(
    "name", ["thesis.txt", "data/p.csv", "checkpoints/epoch1.ckpt", "metrics.jsonl", ".lock"]
)
def test_a_folder_that_is_not_a_run_is_left_alone(name: str, tmp_path: Path) -> None:
    precious = tmp_path / "theirs" / name
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    with (
        pytest.raises(UserError, match="exists and is not an empty directory"),
        run_directory.locked_run(tmp_path / "theirs"),
    ):
        pass
    assert [path for path in (tmp_path / "theirs").rglob("*") if path.is_file()] == [precious]


def test_a_run_that_fails_at_once_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with pytest.raises(ZeroDivisionError), run_directory.locked_run(tmp_path / name):
            raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_a_process_killed_while_locking_a_run_does_not_block_it(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "new"
    run.mkdir()
    (run / run_directory.LOCK).touch()
    with run_directory.locked_run(run):
        json_files.write_json(run / run_directory.CONFIG, {})
    before = (run / run_directory.LOCK).stat().st_mtime_ns
    with run_directory.locked_run(run):  # so that the mark is never away again
        pass
    assert (run / run_directory.LOCK).stat().st_mtime_ns == before


def test_other_files_next_to_the_checkpoints_are_left_alone(make_run: Callable[..., Path]) -> None:
    run = make_run("run", {10: 3.0, 20: 2.0, 30: 2.5})
    names = "step-00000010.tar", "step-00000020-good"
    for name in names:
        (run / run_directory.CHECKPOINTS / name).mkdir()
    run_directory.keep(run, 1)
    assert {path.name for path in (run / run_directory.CHECKPOINTS).iterdir()} == {
        *names,
        "step-00000020",
        "step-00000030",
    }
    assert run_directory.summary(run).state == "whole, done"


def test_metrics_are_rewound_to_those_of_the_checkpoint(make_run: Callable[..., Path]) -> None:
    run = make_run("run", {10: 3.0})
    copy = (run / run_directory.METRICS).read_bytes()
    (run_directory.checkpoint_of(run, 10) / run_directory.METRICS).write_bytes(copy)
    run_directory.append_metrics(run, {"step": 12, "loss": 1.0})
    with (run / run_directory.METRICS).open("a") as file:
        file.write('{"step": 13, "lo')
    assert [line["step"] for line in run_directory.read_metrics(run)] == [10, 12]
    run_directory.rewind_metrics(run, run_directory.checkpoint_of(run, 10))
    assert (run / run_directory.METRICS).read_bytes() == copy
    run_directory.rewind_metrics(run, None)
    assert run_directory.read_metrics(run) == []


def test_the_list_shows_every_run_and_whether_it_is_intact(
    make_run: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Any],
) -> None:
    make_run("done", {20: 1.75, 30: 2.25})
    make_run("deep/stopped", {20: 2.0})
    damaged = make_run("damaged", {10: 2.0, 20: 2.5})
    (run_directory.checkpoint_of(damaged, 10) / run_directory.CONFIG).write_text("{}")
    shutil.rmtree(make_run("young", {10: 2.0}) / run_directory.CHECKPOINTS)
    (tmp_path / "runs" / "young" / run_directory.LOCK).write_text(run_directory.MARK)
    (make_run("[lost]", {10: 2.0}) / run_directory.CONFIG).unlink()
    (tmp_path / "runs" / "other" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "other" / "config.json").write_text('{"model_type": "gpt2"}')
    with (tmp_path / "runs" / "done" / run_directory.METRICS).open("a") as file:
        file.write("garbage\n")
    monkeypatch.chdir(tmp_path)
    outcome = command("jaxgpt", "runs")
    assert outcome.code == 0
    head, *rows = (line.split("  ") for line in outcome.out.splitlines())
    table = {cells[0]: [cell.strip() for cell in cells[1:] if cell.strip()] for cells in rows}
    assert [cell.strip() for cell in head if cell.strip()] == [
        "run", "config", "model", "step", "loss", "best val", "size", "state",
    ]  # fmt: skip
    assert table["runs/done"][:5] == ["wood", "2 x 12, 3 heads", "30/30", "2.0000", "1.7500"]
    assert {name: cells[-1] for name, cells in table.items()} == {
        "runs/[lost]": "damaged: config.json",
        "runs/damaged": "damaged: step-00000010",
        "runs/deep/stopped": "whole, resumes from 20",
        "runs/done": "whole, done",
        "runs/young": "no checkpoint",
    }


@pytest.mark.parametrize(
    "line",
    [
        {"step": 20, "loss": "2.5"},
        {"step": 20, "loss": 10**400},
        {"step": "20", "loss": 2.5},
        {"step": 20, "loss": 2.5, "val_loss": [1.0]},
    ],
)
def test_a_line_of_metrics_with_other_values_is_skipped(
    line: dict[str, Any], make_run: Callable[..., Path], command: Callable[..., Any]
) -> None:
    run = make_run("run", {10: 3.0})
    run_directory.append_metrics(run, line)
    outcome = command("jaxgpt", "runs", run.parent)
    assert outcome.code == 0, outcome
    assert "10/30" in outcome.out


@pytest.mark.parametrize(
    "change",
    [
        {"origin": 5},
        {"model": []},
        {"model": {"num_blocks": 2}},
        {"train": "long"},
        {"train": {"steps": "30"}},
    ],
)
def test_a_run_whose_config_has_other_values_is_listed_as_damaged(
    change: dict[str, Any], make_run: Callable[..., Path], command: Callable[..., Any]
) -> None:
    run = make_run("run", {10: 3.0})
    config = json_files.read_json(run / run_directory.CONFIG)
    json_files.write_json(run / run_directory.CONFIG, {**config, **change})
    outcome = command("jaxgpt", "runs", run.parent)
    assert outcome.code == 0, outcome
    assert "damaged: config.json" in outcome.out


def test_a_val_loss_that_is_not_a_number_is_refused(make_run: Callable[..., Path]) -> None:
    run = make_run("run", {10: 3.0, 20: 2.0})
    config = run_directory.checkpoint_of(run, 20) / run_directory.CONFIG
    json_files.write_json(config, {"val_loss": "2.0"})
    with pytest.raises(UserError, match=r"step-00000020/config\.json has a val_loss"):
        run_directory.best(run)


def test_a_missing_run_or_directory_is_reported(
    tmp_path: Path, command: Callable[..., Any], refused: Any
) -> None:
    assert "There is no run in" in command("jaxgpt", "runs", tmp_path).out
    assert "is not a directory" in refused("jaxgpt", "runs", tmp_path / "nowhere")


def test_metrics_are_written_as_one_line(tmp_path: Path) -> None:
    run_directory.append_metrics(tmp_path, {"step": 1, "loss": None})
    assert json.loads((tmp_path / run_directory.METRICS).read_text()) == {"step": 1, "loss": None}

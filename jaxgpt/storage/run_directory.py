"""Runs: their checkpoints, metrics, lock and summary.

`jaxgpt.file_names` lists the files of a run.
"""

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxgpt.errors import UserError, require
from jaxgpt.file_names import BASE, CHECKPOINTS, CONFIG, LOCK, MANIFEST, METRICS
from jaxgpt.system import atomic_files, directories, json_files, locks

MARK = "jaxgpt train\n"  # the content of the lock


@contextlib.contextmanager
def locked_run(run: Path) -> Iterator[None]:
    """Lock `run` for this process, and remove partial files that an interrupted process left."""
    if run.exists() and not is_run(run) and not _has_only_a_lock(run):
        directories.require_empty(run)
    taken = f"{run} is being trained by another process: wait for it, or choose another --run.dir."
    with atomic_files.folders_above(run / LOCK), locks.locked(run / LOCK, MARK, taken):
        try:
            for folder in (run, run / CHECKPOINTS):
                directories.remove_leftovers(folder)
            yield
        finally:
            with contextlib.suppress(OSError):
                if _has_only_a_lock(run):
                    (run / LOCK).unlink()


def _has_only_a_lock(run: Path) -> bool:
    """Whether `run` has nothing but a lock, which lacks its mark if the process died early."""
    names = [path.name for path in run.iterdir()] if run.is_dir() else []
    return names == [LOCK] and (run / LOCK).read_bytes() in (b"", MARK.encode())


def is_run(path: Path) -> bool:
    """Whether `path` is a run, recognised by files that only jaxgpt writes.

    Names such as checkpoints/, data/ or metrics.jsonl are not enough: other programs use them too.
    """
    lock = path / LOCK
    return any(path.glob(f"{CHECKPOINTS}/step-*/{MANIFEST}")) or (
        lock.is_file() and lock.read_text() == MARK
    )


def checkpoint_of(run: Path, step: int) -> Path:
    """The path of the checkpoint of `step`."""
    return run / CHECKPOINTS / f"step-{step:08}"


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of `run`, oldest first; other files among them are ignored."""
    ours = [
        path
        for path in (run / CHECKPOINTS).glob("step-*")
        if re.fullmatch(r"step-\d{8,}", path.name)
    ]
    return sorted((path for path in ours if path.is_dir()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint is named after."""
    return int(checkpoint.name.removeprefix("step-"))


def best(run: Path) -> Path | None:
    """The checkpoint with the lowest validation loss, the newest of equal ones; None if there is
    none."""

    def loss(checkpoint: Path) -> float:
        try:
            return val_loss(checkpoint)
        except (UserError, FileNotFoundError):
            if checkpoint.exists():
                raise
            return math.inf  # the training process has just discarded it

    return min(reversed(checkpoints(run)), key=loss, default=None)


def val_loss(checkpoint: Path) -> float:
    """The validation loss of a checkpoint, infinite where there was no evaluation."""
    loss = json_files.read_json(checkpoint / CONFIG).get("val_loss")
    require(
        loss is None or _is_number(loss),
        f"{checkpoint / CONFIG} has a val_loss that is not a number. {json_files.DAMAGED}",
    )
    return math.inf if loss is None else loss


def keep(run: Path, newest: int) -> None:
    """Discard all checkpoints but the best readable one and the last `newest`."""

    def loss(checkpoint: Path) -> float:
        with contextlib.suppress(UserError):
            return val_loss(checkpoint)
        return math.inf

    paths = checkpoints(run)
    spared = {*paths[-newest:], min(reversed(paths), key=loss)}
    for path in paths:
        if path not in spared:
            directories.discard(path)


def set_aside(checkpoint: Path) -> Path:
    """Rename a damaged checkpoint so that the run ignores it; return its new path."""
    aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
    if aside.exists():
        directories.discard(aside)
    return checkpoint.rename(aside)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The logged metrics; incomplete lines are skipped, as the last one may be being written."""
    text = (
        (run / METRICS).read_text(encoding="utf-8", errors="replace")
        if (run / METRICS).exists()
        else ""
    )
    lines = []
    for line in text.splitlines():
        with contextlib.suppress(UserError):
            lines.append(json_files.parse_json(line, run / METRICS, ""))
    return [line for line in lines if isinstance(line, dict) and _is_of_a_step(line)]


def _is_of_a_step(line: Mapping[str, Any]) -> bool:
    """Whether a line of metrics has a step and a loss, and all of its losses are numbers."""
    losses = [line.get("loss"), line.get("val_loss")]
    numbers = all(loss is None or _is_number(loss) for loss in losses)
    return "loss" in line and type(line.get("step")) is int and numbers


def _is_number(value: Any) -> bool:
    """Whether `value` can be shown as a float."""
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def append_metrics(run: Path, line: Mapping[str, Any]) -> None:
    """Log one step."""
    with (
        atomic_files.errors_naming(run / METRICS),
        (run / METRICS).open("a", encoding="utf-8") as file,
    ):
        file.write(json.dumps(line) + "\n")


def rewind_metrics(run: Path, checkpoint: Path | None) -> None:
    """Reset the metrics to those saved in `checkpoint`, or to none.

    Steps that are repeated are then logged only once.
    """
    with atomic_files.replaced_file(run / METRICS) as partial:
        partial.write_bytes((checkpoint / METRICS).read_bytes() if checkpoint else b"")


@dataclass(frozen=True)
class Summary:
    """A run's line in the list of runs."""

    path: Path
    model: str
    origin: str  # the name of the config file
    step: int
    steps: int
    loss: float | None
    val_loss: float | None  # of the best checkpoint
    size: int
    state: str


def find(root: Path) -> list[Path]:
    """The runs in the tree below `root`, sorted."""
    if not root.is_dir():
        raise UserError(f"{root} is not a directory. Name the one that your runs are in.")
    signs = (sign.parent for name in (CHECKPOINTS, LOCK) for sign in root.rglob(name))
    return sorted({run for run in signs if is_run(run)})


def summary(run: Path) -> Summary:
    """The summary of `run`, whose files may be damaged."""
    metrics = read_metrics(run)
    config = _config(run)
    model, steps = config.get("model", {}), config.get("train", {}).get("steps", 0)
    losses = [line["val_loss"] for line in metrics if line.get("val_loss") is not None]
    saved = checkpoints(run)
    return Summary(
        run,
        "{num_blocks} x {model_dim}, {num_heads} heads".format_map(model) if model else "",
        Path(config.get("origin", "")).stem,
        metrics[-1]["step"] if metrics else 0,
        steps,
        metrics[-1]["loss"] if metrics else None,
        min(losses, default=None),
        directories.size(run),
        _state(run, saved, steps) if config else f"damaged: {CONFIG}",
    )


def _config(run: Path) -> Mapping[str, Any]:
    """The settings of `run`; {} if they are damaged."""
    with contextlib.suppress(UserError):
        config = json_files.read_json(run / CONFIG)
        model, train = config.get("model", {}), config.get("train", {})
        if (
            isinstance(config.get("origin", ""), str)
            and isinstance(model, dict)
            and (not model or {"num_blocks", "model_dim", "num_heads"} <= model.keys())
            and isinstance(train, dict)
            and type(train.get("steps", 0)) is int
        ):
            return config
    return {}


def _state(run: Path, saved: list[Path], steps: int) -> str:
    """Whether `run` is being trained, is damaged, is done, or can be resumed."""
    if locks.is_locked(run / LOCK):
        return "running"
    damaged = []
    for checkpoint in [*saved, *run.glob(BASE)]:
        try:
            directories.check_manifest(checkpoint)
        except UserError:
            damaged.append(checkpoint.name)
    if damaged:
        return f"damaged: {', '.join(damaged)}"
    if not saved:
        return "no checkpoint"
    last = step_of(saved[-1])
    return "whole, done" if last >= steps else f"whole, resumes from {last}"

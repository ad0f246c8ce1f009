"""A run's directory: its checkpoints, its metrics, who holds it. Knows no array, and no model.

DIR/config.json         every setting, resolved
DIR/metrics.jsonl       a line for each logged step
DIR/loss.png            the same as a picture, where matplotlib is installed
DIR/checkpoints/NAME/   model directories with all that is needed to go on; the best and the newest are kept
DIR/data/               what was prepared for this run, where data.path named a text
DIR/.lock               held while it is trained
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxgpt import disk
from jaxgpt.config import UserError

CONFIG, METRICS, CHECKPOINTS, DATA, LOCK = "config.json", "metrics.jsonl", "checkpoints", "data", ".lock"


@contextlib.contextmanager
def held(run: Path) -> Iterator[None]:
    """For this process alone, and free of what a dead one left half written."""
    if run.exists() and not is_run(run):
        disk.require_vacant(run)
    with disk.locked(run / LOCK, f"{run} is being trained by another process: wait for it, or choose another run.dir."):
        try:
            for folder in (run, run / CHECKPOINTS):
                disk.remove_leftovers(folder)
            yield
        finally:
            if [path.name for path in run.iterdir()] == [LOCK]:  # nothing came of it
                (run / LOCK).unlink()
                run.rmdir()


def is_run(path: Path) -> bool:
    """Also of one that died before its first step."""
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    begun = bool(names & {METRICS, CHECKPOINTS, LOCK}) or names == {DATA}
    return begun and not names & {disk.MANIFEST, "weights"}


def checkpoint_of(run: Path, step: int) -> Path:
    return run / CHECKPOINTS / f"step-{step:08}"


def checkpoints(run: Path) -> list[Path]:
    """Oldest first."""
    return sorted((run / CHECKPOINTS).glob("step-*"))


def best(run: Path) -> Path | None:
    """The checkpoint that a run stands for."""
    return min(reversed(checkpoints(run)), key=val_loss, default=None)


def val_loss(checkpoint: Path) -> float:
    found = disk.read_json(checkpoint / CONFIG).get("val_loss")
    return math.inf if found is None else found


def keep(run: Path, newest: int) -> None:
    """The best one, and so many of the newest; what cannot be read is not the best."""

    def loss(checkpoint: Path) -> float:
        with contextlib.suppress(UserError):
            return val_loss(checkpoint)
        return math.inf

    found = checkpoints(run)
    spared = {*found[-newest:], min(reversed(found), key=loss)}
    for path in found:
        if path not in spared:
            disk.discard(path)


def set_aside(checkpoint: Path) -> Path:
    """A damaged checkpoint is no longer one of the run's, and stays for whoever wants to look at it."""
    aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
    if aside.exists():
        disk.discard(aside)
    return checkpoint.rename(aside)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """A last line that is not whole is being written."""
    lines = (run / METRICS).read_text(encoding="utf-8").splitlines(keepends=True) if (run / METRICS).exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def append_metrics(run: Path, line: Mapping[str, Any]) -> None:
    with (run / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def rewind_metrics(run: Path, checkpoint: Path | None) -> None:
    """To those that a checkpoint was saved with: steps that are computed again are logged again."""
    with disk.replaced_file(run / METRICS) as partial:
        partial.write_bytes((checkpoint / METRICS).read_bytes() if checkpoint else b"")


@dataclass(frozen=True)
class Summary:
    """A run, as the list of runs shows it."""

    path: Path
    model: str
    origin: str  # the config file's name
    step: int
    steps: int
    loss: float | None
    val_loss: float | None  # the best
    size: int
    state: str


def find(root: Path) -> list[Path]:
    if not root.is_dir():
        raise UserError(f"{root} is not a directory. Name the one that your runs lie in.")
    return sorted(config.parent for config in root.rglob(CONFIG) if is_run(config.parent))


def summary(run: Path) -> Summary:
    config, metrics = disk.read_json(run / CONFIG), read_metrics(run)
    model, steps = config.get("model", {}), config.get("train", {}).get("steps", 0)
    losses = [line["val_loss"] for line in metrics if line.get("val_loss") is not None]
    saved = checkpoints(run)
    return Summary(
        run,
        "{num_blocks} x {model_dim}, {num_heads} heads".format_map(model),
        Path(config.get("origin", "")).stem,
        metrics[-1]["step"] if metrics else 0,
        steps,
        metrics[-1]["loss"] if metrics else None,
        min(losses, default=None),
        disk.size(run),
        _state(run, saved, steps),
    )


def _state(run: Path, saved: list[Path], steps: int) -> str:
    if disk.is_locked(run / LOCK):
        return "running"
    damaged = []
    for checkpoint in saved:
        try:
            disk.check_manifest(checkpoint)
        except UserError:
            damaged.append(checkpoint.name)
    if damaged:
        return f"damaged: {', '.join(damaged)}"
    if not saved:
        return "no checkpoint"
    last = int(saved[-1].name.removeprefix("step-"))
    return "whole, done" if last >= steps else f"whole, goes on from {last}"

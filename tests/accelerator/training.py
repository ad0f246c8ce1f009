"""The CPU recipe for a small text, trained to its end, and the loss of the whole validation split.

The limit is the loss of the same run on a CPU, which seeds change by a hundredth.
"""

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from jaxgpt.storage.run_directory import read_metrics
from tests.accelerator import RIGHT, WRONG, Row
from tests.accelerator.settings import FULL, TEXT, Settings
from tests.helpers import ROOT

RECIPE = ROOT / "configs" / "shakespeare_char_cpu.toml"
ON_CPU = {TEXT: 1.400}  # the validation loss by text: seed 0, and the text of Python 3.11
SPREAD = 0.03


def measure(settings: Settings) -> Iterator[Row]:
    run = settings.out / "training"
    ended = subprocess.run(
        command(settings.text, run, settings.sizes.train), capture_output=True, text=True
    )
    if ended.returncode:
        raise RuntimeError(f"The training ended with exit code {ended.returncode}: {ended.stderr}")
    lines = read_metrics(run)
    last = lines[-1]
    yield {"what": "steps", "value": last["step"]}
    yield {"what": "loss of the first logged step", "value": lines[0]["loss"]}
    verdict = RIGHT if math.isfinite(last["loss"]) else WRONG
    yield {"what": "training loss", "value": last["loss"], "verdict": verdict}
    yield {"what": "tokens/s", "value": max(line["tokens_per_second"] for line in lines)}
    yield {
        "what": "validation loss",
        "value": last["val_loss"],
        **judged(settings, last["val_loss"]),
    }


def command(text: str, run: Path, changes: dict[str, int]) -> list[str]:
    """The command that trains the recipe on `text` into the folder `run`, with `changes`."""
    changed = [f"--train.{name}={value}" for name, value in changes.items()]
    train = [sys.executable, "-m", "jaxgpt", "train", str(RECIPE)]
    return [*train, f"--data.path={text}", f"--run.dir={run}", *changed]


def judged(settings: Settings, loss: float) -> Row:
    """The verdict on a validation loss, where that of a CPU is known."""
    if settings.sizes != FULL or settings.text not in ON_CPU:
        return {"note": "not compared: the loss on a CPU is known of the whole recipe alone"}
    expected = ON_CPU[settings.text]
    verdict = RIGHT if abs(loss - expected) < SPREAD else WRONG
    return {"verdict": verdict, "note": f"on a CPU {expected}"}

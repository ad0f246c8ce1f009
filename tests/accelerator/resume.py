"""A run whose process is killed resumes, and ends with the same bits as an undisturbed run.

On a GPU, sums by atomic additions and the choice of kernels by their measured speed can change bits
from one process to the next. There the bits must be the same with the flag that forbids both;
without it they are only looked at.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgpt.storage.run_directory import checkpoints, step_of
from tests.accelerator import RIGHT, WRONG, Row
from tests.accelerator.settings import LATE, Settings
from tests.accelerator.training import command
from tests.training.test_survival import everything

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
TRIES = 5
PATIENCE = 120  # seconds in which a process must save its first checkpoint


def measure(settings: Settings) -> Iterator[Row]:
    jax.config.update("jax_platforms", "cpu")  # the device is for the runs, one after the other
    if settings.platform == "gpu":
        yield compared(settings, DETERMINISTIC) | {"flags": DETERMINISTIC}
        if settings.left < settings.seconds / 2:  # the second takes as long as the first
            yield {"flags": "none", "bits": None, "note": LATE}
            return
        row = compared(settings, "")
        row["note"] = f"nothing is promised without {DETERMINISTIC}"
        del row["verdict"]
        yield row | {"flags": "none"}
    else:
        yield compared(settings, "") | {"flags": "none"}


def compared(settings: Settings, flags: str) -> Row:
    """Whether the killed run and the other have the same bits, both with more XLA `flags`."""
    folder = settings.out / f"resume{flags}"
    all_flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    environment = {**os.environ, "XLA_FLAGS": all_flags}
    victim, unharmed = folder / "killed", folder / "unharmed"
    step = killed(command(settings.text, victim, settings.sizes.killed), victim, environment)
    for run in (victim, unharmed):
        subprocess.run(
            command(settings.text, run, settings.sizes.killed),
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    one, other = everything(victim), everything(unharmed)
    same = jax.tree.leaves(jax.tree.map(np.array_equal, bits(one), bits(other)))
    return {
        "killed after step": step,
        "arrays and losses": len(same),
        "bits": "the same" if all(same) else f"{len(same) - sum(same)} differ",
        "verdict": RIGHT if all(same) else WRONG,
    }


def bits(run: dict[str, Any]) -> dict[str, Any]:
    """What must be equal: the final state, and the loss of every logged step."""
    losses = {line["step"]: line["loss"] for line in run["metrics"]}
    return {"params": run["params"], "beside": run["beside"], "losses": losses}


def killed(words: list[str], run: Path, environment: dict[str, str]) -> int:
    """Start the run again until it is killed before its end, and return the step it had saved."""
    for _ in range(TRIES):
        with contextlib.suppress(Finished):
            return kill(words, run, environment)
        shutil.rmtree(run)
    raise Finished(f"The run was done {TRIES} times before it could be killed: give it more steps.")


class Finished(RuntimeError):
    """Raised where a run ended before it could be killed."""


def kill(words: list[str], run: Path, environment: dict[str, str]) -> int:
    """Kill the process of `words` after its first checkpoint; the step of its newest one."""
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
    end = time.monotonic() + PATIENCE
    while not (run.exists() and checkpoints(run)) and time.monotonic() < end:
        if process.poll():
            raise RuntimeError(f"The run ended by itself, with exit code {process.returncode}.")
        time.sleep(0.02)
    process.kill()
    if process.wait() == 0:
        raise Finished
    return step_of(checkpoints(run)[-1])

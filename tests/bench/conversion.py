"""Seconds to convert a file of 24 blocks of width 1,024, next to the least that it can take.

    python -m tests.bench.conversion [ROUNDS]

The least is to import what the command imports, to read and hash the file once, and to copy it once. Rounds alternate
between the commands; each is a new process.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from convert.reference import GPT
from tests.bench import rounds
from tests.helpers import ROOT

SIZES = (32000, 1024, 1024, 24, 16)
IMPORTS = "import torch, jax, flax.nnx, optax, orbax.checkpoint"
HASH = "import hashlib, sys; hashlib.file_digest(open(sys.argv[1], 'rb'), 'sha256')"
LOAD = "import jaxgpt, sys; jaxgpt.load(sys.argv[1])"


@dataclass
class Line:
    """One line of the table."""

    work: str
    seconds: list[float]
    least: float

    def __str__(self) -> str:
        ours = statistics.median(self.seconds)
        spread = f"{min(self.seconds):.1f} to {max(self.seconds):.1f}"
        return (
            f"| {self.work} | {ours:.1f} ({spread}) | {self.least:.1f} | {ours / self.least:.1f} |"
        )


def seconds(*command: str) -> float:
    """The seconds that a new Python process with these arguments took."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *command],
        check=True,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return time.perf_counter() - start


def measured(count: int) -> list[Line]:
    """The lines of `count` rounds."""
    times: dict[str, list[float]] = {"to-flax": [], "to-torch": [], "jaxgpt.load": []}
    least: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        file, copy = Path(name, "weights.pt"), Path(name, "copy.pt")
        torch.save(GPT(*SIZES).state_dict(), file)
        for turn in range(count):
            model, out = Path(name, f"model{turn}"), Path(name, f"out{turn}.pt")
            copying = f"import shutil; shutil.copyfile({str(file)!r}, {str(copy)!r})"
            least.append(
                seconds("-c", IMPORTS) + seconds("-c", HASH, str(file)) + seconds("-c", copying)
            )
            times["to-flax"].append(seconds("-m", "convert", "to-flax", str(file), str(model)))
            times["to-torch"].append(seconds("-m", "convert", "to-torch", str(model), str(out)))
            times["jaxgpt.load"].append(seconds("-c", LOAD, str(model)))
            shutil.rmtree(model)
            out.unlink()
    return [Line(work, each, statistics.median(least)) for work, each in times.items()]


def main() -> None:
    print("| work | seconds | least | ratio |\n|---|---|---|---|")
    for line in measured(rounds(__doc__, 3)):
        print(line)


if __name__ == "__main__":
    main()

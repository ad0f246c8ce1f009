"""Scenes: commands in difficult situations, each drawn by a random generator and played in another process.

A scene ends done, or with a refusal; whatever else it raises is a failure, and so are a crash and a
hang.
"""

import contextlib
import io
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.torture.parts import Orders
from tests.torture.runner import Line, Torture
from tests.torture.worker import FAILED, REFUSED, last_line, peak_kb, reset_peak

DONE = "done"
Play = Callable[
    [Random, Path], str
]  # (random, an empty folder) -> a refusal, or "" where all is right


@dataclass(frozen=True)
class Scene:
    """A line of the table."""

    name: str
    play: Play


class Case(NamedTuple):
    """A scene with what its random generator begins with, and the folder to play it in."""

    scene: Scene
    seed: str
    path: Path


class Wrong(Exception):
    """What a command did and must not do."""


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def run(scenes: Sequence[Scene], orders: Orders) -> list[Line]:
    """Play `scenes` as `orders` say; a line of the table for each."""
    by_name = {scene.name: scene for scene in scenes}
    counts = (REFUSED, DONE, FAILED)
    lines = [Line(name, counts=dict.fromkeys(counts, 0)) for name in by_name]
    with (
        tempfile.TemporaryDirectory(prefix="torture-") as folder,
        Theatre(Path(folder), orders.seed, orders.keep) as theatre,
    ):
        return orders.carry_out(
            lines, lambda line, number: theatre.play(by_name[line.kind], line, number)
        )


class Theatre(Torture):
    """A process that plays scenes; one that crashes or hangs is replaced."""

    most_polls = 3000  # a command may compile

    def play(self, scene: Scene, line: Line, number: int) -> str:
        """Play case `number` of `scene`, and count it in `line`."""
        path = self.folder / "case"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        outcome, text = self._read(Case(scene, f"{self.seed} {scene.name} {number}", path))
        line.cases += 1
        line.counts[outcome] += 1
        if outcome == FAILED:
            again = f'--only "{scene.name}" --seed {self.seed} --case {number}'
            line.failures.append(f"{again}: {text}")
        return f"{outcome}: {text}"

    @staticmethod
    def serve(connection: Connection, out: Path) -> None:
        """Play each case that comes, until there is no next one."""
        os.dup2(os.open(os.devnull, os.O_RDWR), 2)  # libraries write to it; errors are exceptions
        warnings.simplefilter("ignore")
        tempfile.tempdir = str(out)
        connection.send("ready")
        while (case := connection.recv()) is not None:
            reset_peak()
            connection.send("go")
            connection.send((*_played(case), peak_kb()))


def _played(case: Case) -> tuple[str, str]:
    try:
        refusal = case.scene.play(Random(case.seed), case.path)
    except Wrong as wrong:
        return FAILED, str(wrong)
    except BaseException as error:
        return FAILED, last_line(error)
    return (REFUSED, refusal) if refusal else (DONE, "")


def call(program: str, *words: object) -> Outcome:
    """Run a command in this process; an exception that leaves it is one of the scene."""
    from convert.__main__ import main as convert_main
    from jaxgpt.__main__ import main as jaxgpt_main

    before, sys.argv = sys.argv, [program, *map(str, words)]
    out, err = io.StringIO(), io.StringIO()
    code: object = "no exit"
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            {"jaxgpt": jaxgpt_main, "jaxgpt-convert": convert_main}[program]()
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = before
    require(isinstance(code, int), f"it ended with {code!r}")
    assert isinstance(code, int)
    return Outcome(code, out.getvalue(), err.getvalue())


def refusal_of(ended: Outcome, codes: Sequence[int] = (1, 2)) -> str:
    """The paragraph that a command ended with, "" if it was done; Wrong if it ended otherwise."""
    if ended.code == 0:
        return ""
    text = ended.err.strip()
    require(ended.code in codes, f"it ended with {ended.code}, not with {codes}: {text[-200:]}")
    paragraphs = [
        line for line in text.splitlines() if line.startswith(("jaxgpt: ", "jaxgpt-convert: "))
    ]
    require(
        len(paragraphs) == 1 and text.endswith(paragraphs[0]) and paragraphs[0].isprintable(),
        f"it did not end with one paragraph: {text[-300:]!r}",
    )
    for word in ("Traceback", "Errno", "Error("):
        require(word not in text, f"a paragraph with {word}: {text[-300:]}")
    return paragraphs[0]


def require(condition: object, problem: str) -> None:
    if not condition:
        raise Wrong(problem)

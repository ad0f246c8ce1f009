"""Difficult situations for commands, each drawn at random and run in another process.

Its command either does its work or refuses it in one paragraph. Any other exception is a failure, and
so are a crash and a hang.
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
# (random, an empty folder) -> the refusal, or "" where the work was done
Run = Callable[[Random, Path], str]


@dataclass(frozen=True)
class Situation:
    """A line of the table."""

    name: str
    run: Run


class Case(NamedTuple):
    """One case of a situation: the seed of its random generator, and the folder to run it in."""

    situation: Situation
    seed: str
    path: Path


class Wrong(Exception):
    """A command did something that it must not do."""


class Outcome(NamedTuple):
    """The exit code of a command, and what it wrote to stdout and stderr."""

    code: int
    out: str
    err: str


def run(situations: Sequence[Situation], orders: Orders) -> list[Line]:
    """Run cases of `situations` as `orders` say; a line of the table for each."""
    by_name = {situation.name: situation for situation in situations}
    counts = (REFUSED, DONE, FAILED)
    lines = [Line(name, counts=dict.fromkeys(counts, 0)) for name in by_name]
    with (
        tempfile.TemporaryDirectory(prefix="torture-") as folder,
        Runner(Path(folder), orders.seed, orders.keep) as runner,
    ):
        return orders.carry_out(
            lines, lambda line, number: runner.run_case(by_name[line.kind], line, number)
        )


class Runner(Torture):
    """Runs cases in a worker process, which is replaced if it crashes or hangs."""

    most_polls = 3000  # a command may compile

    def run_case(self, situation: Situation, line: Line, number: int) -> str:
        """Run case `number` of `situation`, and count it in `line`; the outcome as text."""
        path = self.folder / "case"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        outcome, text = self._read(Case(situation, f"{self.seed} {situation.name} {number}", path))
        line.cases += 1
        line.counts[outcome] += 1
        if outcome == FAILED:
            again = f'--only "{situation.name}" --seed {self.seed} --case {number}'
            line.failures.append(f"{again}: {text}")
        return f"{outcome}: {text}"

    @staticmethod
    def serve(connection: Connection, out: Path) -> None:
        """Run each case that arrives on `connection`, until None does."""
        os.dup2(os.open(os.devnull, os.O_RDWR), 2)  # libraries write to it; errors are exceptions
        warnings.simplefilter("ignore")
        tempfile.tempdir = str(out)
        connection.send("ready")
        while (case := connection.recv()) is not None:
            reset_peak()
            connection.send("go")
            connection.send((*_outcome(case), peak_kb()))


def _outcome(case: Case) -> tuple[str, str]:
    try:
        refusal = case.situation.run(Random(case.seed), case.path)
    except Wrong as wrong:
        return FAILED, str(wrong)
    except BaseException as error:
        return FAILED, last_line(error)
    return (REFUSED, refusal) if refusal else (DONE, "")


def call(program: str, *words: object) -> Outcome:
    """Run a command in this process; an exception other than SystemExit is raised to the caller."""
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
    """The paragraph with which a command refused its work, "" if it did it; otherwise raises Wrong."""
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

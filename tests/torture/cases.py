"""Commands that are disturbed at a random moment, and whose final result must be the undisturbed one."""

import shutil
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from jaxgpt.errors import UserError
from tests.torture.commands import Command
from tests.torture.forked import Moment, Process, Start, started
from tests.torture.runner import Line
from tests.torture.traces import difference, traces
from tests.torture.worker import FAILED

INTERRUPTED, SAME = "interrupted", "same"
LONGEST = 2.0  # seconds after a site


class Wrong(Exception):
    """A command did not end as it should."""


@dataclass(frozen=True)
class Undisturbed:
    """What an undisturbed command leaves, and the sites of each of its processes."""

    traces: dict[str, Any]
    sites: list[list[str]]


def new_line(name: str) -> Line:
    """An empty line of the table."""
    return Line(name, counts=dict.fromkeys((INTERRUPTED, SAME, FAILED), 0))


class Case:
    """`command` in the folder `path`; its output goes to files next to that folder."""

    def __init__(self, command: Command, path: Path, random: Random):
        self.command, self.path, self.random = command, path, random
        self.interrupted = 0
        self.told: list[str] = []  # what happened

    def starts(self) -> list[Start]:
        """A start for each process of the command."""
        starts = []
        for i, words in enumerate(self.command.all_words()):
            output, errors = (self.path.with_name(f"{name}-{i}") for name in ("output", "errors"))
            errors.unlink(missing_ok=True)
            output.unlink(missing_ok=True)
            starts.append(Start(self.command.main, words, self.path, output, errors))
        return starts

    def moment(self, sites: list[str]) -> Moment:
        """A random moment among `sites`; rare sites are as likely as frequent ones."""
        counts = Counter(sites)
        site = self.random.choice(sorted(counts))
        occurrence = self.random.randint(1, counts[site])
        delay = LONGEST * self.random.random() ** 3 if self.random.random() < 0.5 else 0.0
        return Moment(site, occurrence, delay)

    def kill(self, moment: Moment, index: int = 0) -> None:
        """Start the command; when process `index` reaches `moment`, send SIGKILL to all processes."""
        starts = self.starts()
        starts[index] = replace(starts[index], moment=moment)
        with started(starts) as processes:
            if processes[index].reaches(moment):
                self.told.append(f"killed {moment}")
                for process in processes:
                    process.send(signal.SIGKILL)
            codes = [self.code(process, -signal.SIGKILL) for process in processes]
        self.interrupted += codes[index] == -signal.SIGKILL

    def finish(self) -> list[list[str]]:
        """Run the command to its end, which must be good; the sites of each process."""
        with started(self.starts()) as processes:
            for process in processes:
                self.code(process)
            return [process.sites for process in processes]

    def code(self, process: Process, *codes: int, reader: int | None = None) -> int:
        """The exit code of `process`, which must be 0, one of `codes`, or 2 if the result exists."""
        code = process.code(reader)
        file = process.start.errors
        errors = file.read_text() if file.is_file() else ""  # a terminal is not read
        done = code == 2 and " exists" in errors
        if (code not in (0, *codes) and not done) or "Traceback" in errors:
            raise Wrong(f"exit code {code}, {errors.strip()[-300:]!r}")
        return code


class Cases:
    """Runs the cases of `seed` in a temporary `folder`; copies the files of failed ones to `keep`."""

    def __init__(self, folder: Path, seed: int, keep: Path | None = None):
        self.folder, self.seed, self.keep = folder.resolve(), seed, keep
        self.known: dict[str, Undisturbed] = {}
        self.resumed: dict[str, list[list[str]]] = {}

    def random(self, line: Line, number: int) -> Random:
        return Random(f"{self.seed} {line.kind} {number}")

    def run(
        self, line: Line, number: int, case: Case, disturb: Callable[[Case, Undisturbed], None]
    ) -> str:
        """Run `case`, and count it in `line`; the outcome as text. `number` 0 is not disturbed."""
        whole = self.undisturbed(case.command)
        self.make(case.command)
        try:
            if number:
                disturb(case, whole)
            case.finish()
            problem = difference(traces(case.path), whole.traces)
        except (Wrong, TimeoutError, UserError) as error:
            problem = str(error)
        line.cases += 1
        line.counts[INTERRUPTED] += case.interrupted
        line.counts[FAILED if problem else SAME] += 1
        told = f"{case.command.name}: {'; '.join(case.told)}: {problem or SAME}"
        if problem:
            again = f'--only "{line.kind}" --seed {self.seed} --case {number}'
            line.failures.append(f"{again}: {told}")
            if self.keep:
                name = f"{line.kind}-{self.seed}-{number}"
                shutil.copytree(case.path, self.keep / name, dirs_exist_ok=True)
        return told

    def case(self, command: Command, random: Random) -> Case:
        return Case(command, self.folder / "case", random)

    def make(self, command: Command) -> None:
        """Make the folder of a case, with the input of `command`."""
        source, target = self.folder / command.name, self.folder / "case"
        if not source.exists():
            source.mkdir()
            command.make(source)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)

    def undisturbed(self, command: Command) -> Undisturbed:
        """What `command` leaves when it is not disturbed."""
        if command.name not in self.known:
            case = self.case(command, Random(0))
            self.make(command)
            sites = case.finish()
            self.known[command.name] = Undisturbed(traces(case.path), sites)
        return self.known[command.name]

    def resuming(self, command: Command) -> list[list[str]]:
        """The sites of each process when `command` starts again after it was killed half-way."""
        if command.name not in self.resumed:
            sites = self.undisturbed(command).sites[0]
            case, half = self.case(command, Random(0)), len(sites) // 2
            self.make(command)
            case.kill(Moment(sites[half], sites[: half + 1].count(sites[half])))
            self.resumed[command.name] = case.finish()
        return self.resumed[command.name]

"""Commands to which something happens at a random moment, and which must end as if it had not."""

import shutil
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from jaxgpt.errors import UserError
from tests.torture.forked import Moment, Process, Start, started
from tests.torture.runner import Line
from tests.torture.traces import difference, traces
from tests.torture.victims import Victim
from tests.torture.worker import FAILED

INTERRUPTED, SAME = "interrupted", "same"
LONGEST = 2.0  # seconds after a site


class Wrong(Exception):
    """A command did not end as it should."""


@dataclass(frozen=True)
class Undisturbed:
    """What a command leaves, and the sites of each of its processes."""

    traces: dict[str, Any]
    sites: list[list[str]]


def new_line(name: str) -> Line:
    """An empty line of the table."""
    return Line(name, counts=dict.fromkeys((INTERRUPTED, SAME, FAILED), 0))


class Case:
    """The command of `victim` in the folder `path`; what it says goes into files next to that."""

    def __init__(self, victim: Victim, path: Path, random: Random):
        self.victim, self.path, self.random = victim, path, random
        self.interrupted = 0
        self.told: list[str] = []  # what happened

    def starts(self) -> list[Start]:
        """A start for each process of the command."""
        starts = []
        for i, words in enumerate(self.victim.all_words()):
            output, errors = (self.path.with_name(f"{name}-{i}") for name in ("output", "errors"))
            errors.unlink(missing_ok=True)
            output.unlink(missing_ok=True)
            starts.append(Start(self.victim.main, words, self.path, output, errors))
        return starts

    def moment(self, sites: list[str]) -> Moment:
        """A random moment among `sites`: each place is as likely, be it frequent or rare."""
        counts = Counter(sites)
        site = self.random.choice(sorted(counts))
        occurrence = self.random.randint(1, counts[site])
        delay = LONGEST * self.random.random() ** 3 if self.random.random() < 0.5 else 0.0
        return Moment(site, occurrence, delay)

    def kill(self, moment: Moment, index: int = 0) -> None:
        """Start the command and send all its processes SIGKILL at a moment of one, if it comes."""
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
        """Start the command, and require that it ends with 0; the sites of each process."""
        with started(self.starts()) as processes:
            for process in processes:
                self.code(process)
            return [process.sites for process in processes]

    def code(self, process: Process, *codes: int, reader: int | None = None) -> int:
        """The exit code of `process`: 0, one of `codes`, or 2 if an earlier start had done all."""
        code = process.code(reader)
        file = process.start.errors
        errors = file.read_text() if file.is_file() else ""  # nothing comes back from a terminal
        done = code == 2 and " exists" in errors
        if (code not in (0, *codes) and not done) or "Traceback" in errors:
            raise Wrong(f"exit code {code}, {errors.strip()[-300:]!r}")
        return code


class Cases:
    """Cases of a `seed` in a temporary `folder`; the files of those that fail are left in `keep`."""

    def __init__(self, folder: Path, seed: int, keep: Path | None = None):
        self.folder, self.seed, self.keep = folder.resolve(), seed, keep
        self.known: dict[str, Undisturbed] = {}
        self.resumed: dict[str, list[list[str]]] = {}

    def random(self, line: Line, number: int) -> Random:
        return Random(f"{self.seed} {line.kind} {number}")

    def run(
        self, line: Line, number: int, case: Case, disturb: Callable[[Case, Undisturbed], None]
    ) -> str:
        """Run a case, and count it in `line`; nothing happens in `number` 0."""
        whole = self.undisturbed(case.victim)
        self.make(case.victim)
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
        told = f"{case.victim.name}: {'; '.join(case.told)}: {problem or SAME}"
        if problem:
            again = f'--only "{line.kind}" --seed {self.seed} --case {number}'
            line.failures.append(f"{again}: {told}")
            if self.keep:
                name = f"{line.kind}-{self.seed}-{number}"
                shutil.copytree(case.path, self.keep / name, dirs_exist_ok=True)
        return told

    def case(self, victim: Victim, random: Random) -> Case:
        return Case(victim, self.folder / "case", random)

    def make(self, victim: Victim) -> None:
        """Make the folder of a case, with what `victim` reads."""
        source, target = self.folder / victim.name, self.folder / "case"
        if not source.exists():
            source.mkdir()
            victim.make(source)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)

    def undisturbed(self, victim: Victim) -> Undisturbed:
        """What `victim` does and leaves when nothing happens to it."""
        if victim.name not in self.known:
            case = self.case(victim, Random(0))
            self.make(victim)
            sites = case.finish()
            self.known[victim.name] = Undisturbed(traces(case.path), sites)
        return self.known[victim.name]

    def resuming(self, victim: Victim) -> list[list[str]]:
        """The sites of each process of `victim` after it was killed half-way."""
        if victim.name not in self.resumed:
            sites = self.undisturbed(victim).sites[0]
            case, half = self.case(victim, Random(0)), len(sites) // 2
            self.make(victim)
            case.kill(Moment(sites[half], sites[: half + 1].count(sites[half])))
            self.resumed[victim.name] = case.finish()
        return self.resumed[victim.name]

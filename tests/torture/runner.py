"""Makes cases by number, has a worker process read them, and counts how they end."""

import multiprocessing
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.torture.kinds import Kind
from tests.torture.valid_files import trained_run
from tests.torture.worker import EQUAL, FAILED, REFUSED, Case, memory_kb, serve

POLL = 0.05  # seconds between two looks at a worker
MOST_POLLS = round(
    20 / POLL
)  # counted, not timed, so that a paused machine is not taken for a hang
SPARE_KB, TIMES = 2**20, 4  # memory that a case may take: 4 times its files and 1 GB
STARTING = 300  # seconds that imports may take


@dataclass
class Line:
    """A line of the table: the number of cases of a kind by how they ended."""

    kind: str
    cases: int = 0
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys((REFUSED, EQUAL, FAILED), 0)
    )
    failures: list[str] = field(default_factory=list)


class Torture:
    """Runs the cases of `seed` in a temporary `folder`; copies the files of failed ones to `keep`."""

    most_polls = MOST_POLLS
    serve = staticmethod(serve)  # what the worker does

    def __init__(self, folder: Path, seed: int, keep: Path | None = None):
        self.folder, self.seed, self.keep = folder, seed, keep
        self.out = folder / "out"
        self.out.mkdir()
        self.process: Any = None
        self.connection: Any = None

    def __enter__(self) -> "Torture":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def valid(self, kind: Kind, number: int) -> Path:
        """The folder with valid file `number` of the kind."""
        folder = self.folder / f"{kind.make.__name__}-{number}"
        if not folder.exists():
            folder.mkdir()
            kind.make(folder, number)
        return folder

    def partner(self, kind: Kind) -> Path:
        """The folder with a second valid file, for changes that mix two files."""
        return self.valid(kind, 0 if kind.make is trained_run else 1)

    def run(self, kind: Kind, line: Line, number: int) -> str:
        """Run case `number` of `kind`, and count it in `line`; the outcome as text. 0 is the valid file."""
        source = self.valid(kind, 0)
        target = self.folder / "case"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        file = self._damaged(kind, target, number) if number else ""
        opens = Path(kind.opens)
        outcome, text = self._read(Case(kind, target / opens, source / opens, file))
        if not number and outcome != EQUAL:
            outcome, text = FAILED, f"the valid file: {text}"
        line.cases += 1
        line.counts[outcome] += 1
        if outcome == FAILED:
            again = f'--only "{kind.name}" --seed {self.seed} --case {number}'
            line.failures.append(f"{again}: {file}: {text}")
            if self.keep:
                shutil.copytree(
                    target, self.keep / f"{kind.name}-{self.seed}-{number}", dirs_exist_ok=True
                )
        return f"{outcome}: {text}"

    def _damaged(self, kind: Kind, target: Path, number: int) -> str:
        """Damage one of the files of `kind` below `target`; return its name."""
        random = Random(f"{self.seed} {kind.name} {number}")
        files = [path for path in target.glob(kind.files) if path.is_file()]
        # orbax names files at random, so the order must not depend on names.
        files.sort(key=lambda path: (str(path.parent), path.suffix, path.stat().st_size, path.name))
        path = random.choice(files)
        others = [self.partner(kind) / path.relative_to(target), random.choice(files)]
        other = random.choice([one for one in others if one.is_file()])
        content = path.read_bytes()
        path.write_bytes(kind.damage(random, content, other.read_bytes()))
        if kind.new_manifests:
            from jaxgpt.system.directories import write_manifest

            write_manifest(target / kind.opens)
        return str(path.relative_to(target))

    def _read(self, case: Any) -> tuple[str, str]:
        """The worker's answer; a worker that crashes, hangs or takes too much memory is replaced."""
        if self.process is None:
            self._start()
        root = case.path if case.path.is_dir() else case.path.parent
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        self.connection.send(case)
        try:
            self._answer()  # it has reset its peak of memory
            most = memory_kb(self.process.pid, "VmRSS") + SPARE_KB + TIMES * size // 1024
            for _ in range(self.most_polls):
                if self.connection.poll(POLL):
                    outcome, text, peak = self.connection.recv()
                    if peak > most:
                        return FAILED, f"took {peak // 1024} MiB of memory"
                    return outcome, text
                if memory_kb(self.process.pid, "VmRSS") > most:
                    return self._end("takes more memory than it may")
            return self._end("hangs")
        except (EOFError, ConnectionError):
            self.process.join()
            return self._end(f"the process crashed with code {self.process.exitcode}")

    def _end(self, problem: str) -> tuple[str, str]:
        self._stop()
        return FAILED, problem

    def _answer(self) -> Any:
        if not self.connection.poll(STARTING):
            raise RuntimeError("the worker does not start")
        return self.connection.recv()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=self.serve, args=(theirs, self.out))
        self.process.start()
        theirs.close()
        self._answer()

    def _stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
        self.process = None

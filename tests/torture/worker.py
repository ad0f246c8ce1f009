"""A worker process, which reads damaged files one after another and judges the results."""

import os
import sys
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.torture.kinds import Kind

REFUSED, EQUAL, FAILED = "refused", "read equal", "failed"


@dataclass(frozen=True)
class Case:
    """What is read: `path`, a copy of `valid` in which `file` was damaged."""

    kind: Kind
    path: Path
    valid: Path
    file: str


def serve(connection: Connection, out: Path) -> None:
    """Answer each case from `connection` with its outcome, a text and a peak of memory, until None."""
    sys.dont_write_bytecode = True
    devnull = os.open(os.devnull, os.O_RDWR)
    os.dup2(devnull, 2)  # libraries write to it; errors are exceptions
    warnings.simplefilter("ignore")
    import torch  # noqa: F401  # whose import makes a temporary file

    from tests.torture.guard import Guard

    worker = Worker(Guard(out))
    connection.send("ready")
    while (case := connection.recv()) is not None:
        reset_peak()
        connection.send("go")
        outcome, line = worker.outcome(case)
        connection.send((outcome, line, peak_kb()))


class Worker:
    """Reads cases under a guard, and remembers what the valid files hold."""

    def __init__(self, guard: Any):
        self.guard = guard
        self.originals: dict[tuple[str, Path], Any] = {}

    def outcome(self, case: Case) -> tuple[str, str]:
        from jaxgpt.errors import UserError

        kind = case.kind
        value = problem = refusal = None
        original = self._original(case)
        with self.guard.watching() as acts:
            try:
                value = kind.read(case.path)
            except UserError as error:
                refusal = str(error)
            except BaseException as error:
                problem = last_line(error)
        if acts:
            return FAILED, f"forbidden: {'; '.join(acts[:3])}"
        if problem is not None:
            return FAILED, problem
        if refusal is not None:
            return self._judged(refusal, Path(case.file).name if kind.named else "")
        try:
            right = kind.agrees(value, case.path) if kind.agrees else value == original
        except BaseException as error:
            return FAILED, f"was read, but not by the independent reader: {last_line(error)}"
        return (EQUAL, "") if right else (FAILED, "was read, but as something else")

    def _original(self, case: Case) -> Any:
        """What the valid file holds; reading it first also does all imports outside of the guard."""
        kind = case.kind
        if (kind.name, case.valid) not in self.originals:
            value = kind.read(case.valid)
            if kind.agrees:
                assert kind.agrees(value, case.valid), f"{kind.name}: the valid file disagrees"
            self.originals[kind.name, case.valid] = value
        return self.originals[kind.name, case.valid]

    def _judged(self, refusal: str, name: str) -> tuple[str, str]:
        """The outcome of a refusal, which must be one paragraph that has `name` in it."""
        if not refusal.isprintable():
            return FAILED, f"a refusal that is not one printable line: {refusal[-150:]!r}"
        if name not in refusal:
            return FAILED, f"a refusal that does not name {name}: {refusal[:150]}"
        return REFUSED, refusal


def last_line(error: BaseException) -> str:
    """The type of `error`, the last line of its text, and where our code raised it."""
    trace, place = error.__traceback__, ""
    while trace:
        file = trace.tb_frame.f_code.co_filename
        if "/jaxgpt/" in file or "/convert/" in file:
            place = f" ({'/'.join(file.split('/')[-3:])}:{trace.tb_lineno})"
        trace = trace.tb_next
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1][:150]}{place}"


def reset_peak() -> None:
    """Reset the peak of this process's memory, where Linux allows it."""
    if os.path.exists("/proc/self/clear_refs"):
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")


def peak_kb() -> int:
    return memory_kb("self", "VmHWM")


def memory_kb(process: object, field: str) -> int:
    """The `field` of the memory of `process` in KiB; 0 where there is no such file."""
    try:
        with open(f"/proc/{process}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(field))
    except (OSError, StopIteration):
        return 0

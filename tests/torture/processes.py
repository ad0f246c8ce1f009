"""The part of processes: one of the four of a run is killed, stopped, slow, or unlike the others.

Required: the run goes on if nothing is lost. Otherwise every process ends within the timeout of the
run, and says why in one paragraph besides what jax and tensorstore log, unless jax itself ends it.
The same command, started again, ends with the result of an undisturbed run, bit for bit.
"""

import resource
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tests.torture.cases import Case, Cases, Undisturbed, Wrong, new_line
from tests.torture.commands import Command, config
from tests.torture.forked import Process, started
from tests.torture.parts import Orders
from tests.torture.runner import Line

COUNT = 4  # processes
TIMEOUT = 10  # seconds
SPARE = 60  # seconds that a process may take beyond the timeout, its start included
SLOW = 5.0  # seconds
JAX_SAYS = "Terminating process because the JAX distributed service detected fatal errors"
ROOM = 20_000  # bytes of a file on the full disk: more than the log needs, less than the weights


def four(folder: Path) -> None:
    """Settings of a run whose weights are divided among all of its processes."""
    config(
        folder,
        model={"num_heads": 4, "model_dim": 32},
        mesh={"data": 1, "fsdp": 2, "tensor": 2, "timeout": TIMEOUT},
        train={"steps": 6, "batch_size": 8, "save_every": 3, "eval_every": 6, "log_every": 3},
    )


RUN = Command("four processes", four, "train run.toml", processes=COUNT)


def other_code() -> None:
    import jaxgpt.training.run

    jaxgpt.training.run.code_hash = lambda: "another"


def full_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, ROOM))


def kill(process: Process) -> None:
    process.send(signal.SIGKILL)


def stop(process: Process) -> None:
    process.send(signal.SIGSTOP)


def pause(process: Process) -> None:
    process.send(signal.SIGSTOP)
    time.sleep(SLOW)
    process.send(signal.SIGCONT)


@dataclass(frozen=True)
class Fault:
    """What is wrong with one process: what it does `first`, its own `words`, or an `act` upon it.

    All processes then end with `code`, and say `text`.
    """

    code: int = 1
    text: str = "process"
    first: Callable[[], None] | None = None
    words: tuple[str, ...] = ()
    act: Callable[[Process], None] | None = None


FAULTS = {
    "one is killed": Fault(act=kill),
    "one is stopped": Fault(act=stop),
    "one is slow": Fault(code=0, text="", act=pause),
    "one has another config": Fault(2, "disagree", words=("--optim.learning_rate", "0.5")),
    "one has other code": Fault(2, "disagree", first=other_code),
    "one has a full disk": Fault(text="run ", first=full_disk),
}
LINES = tuple(FAULTS)


def run(orders: Orders) -> list[Line]:
    """Disturb one of four processes as `orders` say; a line of the table for each fault."""
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        cases = Cases(Path(folder), orders.seed, orders.keep)
        return orders.carry_out(
            [new_line(name) for name in LINES],
            lambda line, number: run_case(cases, line, number),
            lambda line: cases.undisturbed(RUN),
        )


def run_case(cases: Cases, line: Line, number: int) -> str:
    """Run case `number` of `line`; the outcome as text."""
    case, fault = cases.case(RUN, cases.random(line, number)), FAULTS[line.kind]
    return cases.run(line, number, case, lambda case, whole: disturb(case, whole, fault))


def disturb(case: Case, whole: Undisturbed, fault: Fault) -> None:
    """Start the command with a fault in one of its processes."""
    index = case.random.randrange(COUNT)
    moment = case.moment(whole.sites[index]) if fault.act else None
    starts = case.starts()
    words = (*starts[index].words, *fault.words)
    starts[index] = replace(starts[index], words=words, first=fault.first, moment=moment)
    case.told.append(f"process {index}, {moment or ''}")
    with started(starts) as processes:
        if moment and fault.act:
            if not processes[index].reaches(moment):
                return
            fault.act(processes[index])
            processes[index].goes_on()
        case.interrupted += 1
        for i, process in enumerate(processes):
            if i == index and fault.act is not pause and fault.act:
                continue
            require_ending(process, fault)
        if fault.act is stop:
            processes[index].send(signal.SIGCONT)
            require_ending(processes[index], fault)


def require_ending(process: Process, fault: Fault) -> None:
    """Require that `process` ends in time, with the code of `fault` and one paragraph of ours."""
    code = process.code(patience=TIMEOUT + SPARE)
    errors = process.start.errors.read_text().strip()
    ours = [line for line in errors.splitlines() if line.startswith("jaxgpt: ")]
    right = (len(ours) == 1 and fault.text in ours[0]) if fault.text else not errors
    if fault.code == 1 and code == -signal.SIGABRT:
        code, right = 1, JAX_SAYS in errors
    if code != fault.code or not right:
        raise Wrong(f"{' '.join(process.start.words[-2:])} ended with {code}: {errors[-600:]!r}")

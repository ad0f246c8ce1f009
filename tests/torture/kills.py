"""The part of kills: commands that end, or are disturbed, at a random moment, and start again.

A line for each command that SIGKILL ends, up to four times in a row, and a line for each of what
else happens to commands. A moment is a random one of the places where the command does something
to a file, or random seconds after it. Required: the same command, started again, ends with the
result of one that nothing happened to, bit for bit, and leaves no other file; a command that can
still act ends with the exit code that docs/promises.md names, without a traceback, and leaves
nothing half written.
"""

import os
import pty
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

from jaxgpt.system.atomic_files import PARTIAL
from tests.torture.cases import Case, Cases, Undisturbed, Wrong, new_line
from tests.torture.forked import Process, started
from tests.torture.parts import Orders
from tests.torture.runner import Line
from tests.torture.victims import VICTIMS

MOST_KILLS = 4  # in a row
BROKEN_PIPE = 141


class Reader:
    """What reads the output of a command, and can leave: a terminal, a pipe, or nothing."""

    def __init__(self, path: Path, file: int | None = None):
        self.path, self.file = path, file  # the file descriptor of the other end

    def leave(self) -> None:
        if self.file is not None:
            os.close(self.file)
        self.file = None


Codes = tuple[int, ...]
Act = Callable[[Process, Reader, Random], Codes]  # returns the exit codes that are right besides 0


def stop_by_signal(process: Process, reader: Reader, random: Random) -> Codes:
    number = random.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    process.send(number)
    return 128 + number, -number  # the latter where the command has ended, and Python has not


def close_terminal(process: Process, reader: Reader, random: Random) -> Codes:
    reader.leave()
    return 128 + signal.SIGHUP, -signal.SIGHUP


def pause(process: Process, reader: Reader, random: Random) -> Codes:
    process.send(signal.SIGSTOP)
    time.sleep(random.uniform(0, 0.3))
    process.send(signal.SIGCONT)
    return ()


def close_pipe(process: Process, reader: Reader, random: Random) -> Codes:
    reader.leave()
    return (BROKEN_PIPE,)


OTHER_ACTS: dict[str, Act] = {
    "SIGINT, SIGTERM, SIGHUP": stop_by_signal,
    "the terminal is closed": close_terminal,
    "SIGSTOP, SIGCONT": pause,
    "the reader leaves": close_pipe,
}
BY_NAME = {victim.name: victim for victim in VICTIMS}
ALONE = [victim for victim in VICTIMS if victim.processes == 1]
LINES = (*BY_NAME, *OTHER_ACTS)


def run(orders: Orders) -> list[Line]:
    """Kill and disturb commands as `orders` say; a line of the table for each command and act."""
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        cases = Cases(Path(folder), orders.seed, orders.keep)
        return orders.carry_out(
            [new_line(name) for name in LINES],
            lambda line, number: run_case(cases, line, number),
            lambda line: prepare(cases, line),
        )


def prepare(cases: Cases, line: Line) -> None:
    """Run the commands of a line undisturbed, and the one that is killed once more."""
    if line.kind in BY_NAME:
        cases.resuming(BY_NAME[line.kind])
    else:
        for victim in ALONE:
            cases.undisturbed(victim)


def run_case(cases: Cases, line: Line, number: int) -> str:
    """Run case `number` of a line; what became of it."""
    random = cases.random(line, number)
    if victim := BY_NAME.get(line.kind):
        again, case = cases.resuming(victim), cases.case(victim, random)
        return cases.run(
            line, number, case, lambda case, whole: kill_in_a_row(case, whole.sites, again)
        )
    act = OTHER_ACTS[line.kind]
    case = cases.case(random.choice(ALONE), random)
    return cases.run(line, number, case, lambda case, whole: disturb(case, whole, act))


def kill_in_a_row(case: Case, sites: list[list[str]], again: list[list[str]]) -> None:
    """Start the command and kill it, at one of its `sites` and then up to three times `again`."""
    for start in range(case.random.randint(1, MOST_KILLS)):
        index = case.random.randrange(case.victim.processes)
        case.kill(case.moment((again if start else sites)[index]), index)


def disturb(case: Case, whole: Undisturbed, act: Act) -> None:
    """Start the command, and let `act` happen to it at a random moment."""
    moment = case.moment(whole.sites[0])
    (start,) = case.starts()
    with reading(start.output, act) as reader:
        alone = replace(start, moment=moment, output=reader.path)
        if act is close_terminal:
            alone = replace(alone, errors=reader.path, leads=True)
        with started([alone]) as (process,):
            codes: Codes = ()
            if process.reaches(moment, reader.file):
                codes = act(process, reader, case.random)
                process.goes_on()
                case.told.append(f"{act.__name__} {moment}")
                case.interrupted += 1
            case.code(process, *codes, reader=reader.file)
    if left := [path.name for path in case.path.rglob(f"*{PARTIAL}*")]:
        raise Wrong(f"left behind: {', '.join(left)}")


@contextmanager
def reading(path: Path, act: Act) -> Iterator[Reader]:
    """The reader of the output of a command that `act` is to happen to."""
    if act is close_terminal:
        ours, theirs = pty.openpty()
        os.set_blocking(ours, False)
        reader = Reader(Path(os.ttyname(theirs)), ours)
        os.close(theirs)
    elif act is close_pipe:
        os.mkfifo(path)
        reader = Reader(path, os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    else:
        reader = Reader(path)
    try:
        yield reader
    finally:
        reader.leave()

"""The part of kills: commands are killed or disturbed at a random moment, and started again.

The table has a line for each command that gets SIGKILL, up to four times in a row, and a line for
each other kind of disturbance. A moment is a random operation of the command on a file, or a random
time after it. Required: the same command, started again, ends with the result of an undisturbed
one, bit for bit, and leaves no other file. A command that is not killed ends with an exit code that
docs/promises.md names, without a traceback, and leaves no partial file.
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
from tests.torture.commands import COMMANDS
from tests.torture.forked import Process, started
from tests.torture.parts import Orders
from tests.torture.runner import Line

MOST_KILLS = 4  # in a row
BROKEN_PIPE = 141


class Reader:
    """The reader of a command's output, which may go away: a terminal, a pipe, or a plain file."""

    def __init__(self, path: Path, file: int | None = None):
        self.path, self.file = path, file  # the file descriptor of the other end

    def leave(self) -> None:
        if self.file is not None:
            os.close(self.file)
        self.file = None


Codes = tuple[int, ...]
Act = Callable[[Process, Reader, Random], Codes]  # the exit codes that are right besides 0


def stop_by_signal(process: Process, reader: Reader, random: Random) -> Codes:
    number = random.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    process.send(number)
    return 128 + number, -number  # -number: after the command, while Python ends


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
BY_NAME = {command.name: command for command in COMMANDS}
ALONE = [command for command in COMMANDS if command.processes == 1]
LINES = (*BY_NAME, *OTHER_ACTS)


def run(orders: Orders) -> list[Line]:
    """Kill and disturb commands as `orders` say; the lines of the table."""
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        cases = Cases(Path(folder), orders.seed, orders.keep)
        return orders.carry_out(
            [new_line(name) for name in LINES],
            lambda line, number: run_case(cases, line, number),
            lambda line: prepare(cases, line),
        )


def prepare(cases: Cases, line: Line) -> None:
    """Run the commands of `line` undisturbed, and those that are killed also after a kill."""
    if line.kind in BY_NAME:
        cases.resuming(BY_NAME[line.kind])
    else:
        for command in ALONE:
            cases.undisturbed(command)


def run_case(cases: Cases, line: Line, number: int) -> str:
    """Run case `number` of `line`; the outcome as text."""
    random = cases.random(line, number)
    if command := BY_NAME.get(line.kind):
        again, case = cases.resuming(command), cases.case(command, random)
        return cases.run(
            line, number, case, lambda case, whole: kill_in_a_row(case, whole.sites, again)
        )
    act = OTHER_ACTS[line.kind]
    case = cases.case(random.choice(ALONE), random)
    return cases.run(line, number, case, lambda case, whole: disturb(case, whole, act))


def kill_in_a_row(case: Case, sites: list[list[str]], again: list[list[str]]) -> None:
    """Kill the command at one of its `sites`, then up to three times at one of those of `again`."""
    for start in range(case.random.randint(1, MOST_KILLS)):
        index = case.random.randrange(case.command.processes)
        case.kill(case.moment((again if start else sites)[index]), index)


def disturb(case: Case, whole: Undisturbed, act: Act) -> None:
    """Start the command, and disturb it by `act` at a random moment."""
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
    """The reader of the output of a command that `act` disturbs."""
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

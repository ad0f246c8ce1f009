"""Commands in forked processes that wait at a given moment.

A command runs its real main function on real files in its working directory, forked from a process
that has imported everything. Its moment is the N-th time that it does something to a file of that
folder, which Python's audit events tell. It then reports, and waits until it may go on.
"""

import atexit
import contextlib
import multiprocessing
import os
import re
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

EVENTS = (
    "open", "os.chmod", "os.link", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.rmdir",
    "os.scandir", "os.symlink", "os.truncate", "shutil.rmtree", "fcntl.flock",
)  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR
NAMES = re.compile(r"[0-9a-f]{8,}|\d+")  # of steps and of processes, or made at random
NEVER = 1e9  # seconds; no program takes so long to compile
POLL = 0.05  # seconds
PATIENCE = 120.0  # seconds, counted by polls, so that a paused machine is not taken for a hang


@dataclass(frozen=True)
class Moment:
    """`delay` seconds after the `occurrence`-th time, from 1, that a command does `site`."""

    site: str
    occurrence: int
    delay: float = 0

    def __str__(self) -> str:
        when = f"{self.delay:.3f} s after" if self.delay else "at"
        return f"{when} {self.occurrence} x {self.site}"


@dataclass(frozen=True)
class Start:
    """A command to start: its `main` function with `words`, in `folder`."""

    main: Callable[[], None]
    words: tuple[str, ...]
    folder: Path
    output: Path  # a file, a pipe or a terminal
    errors: Path
    moment: Moment | None = None
    first: Callable[[], None] | None = None  # what the process does before
    leads: bool = False  # a session, whose terminal is `output`


class Process:
    """A started command."""

    def __init__(self, start: Start):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.torture.warm"])
        self.start, self.sites = start, list[str]()  # of a command without a moment, in order
        self.connection, theirs = context.Pipe()
        self.process: Any = context.Process(target=perform, args=(theirs, start), daemon=True)
        self.process.start()
        theirs.close()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()

    def reaches(self, moment: Moment, reader: int | None = None) -> bool:
        """Wait for the moment that the command was started with; False if it ended before.

        It waits there, unless there is a delay.
        """
        if any(said is None for said in self._says(reader)):
            if moment.delay:
                self.goes_on()
                time.sleep(moment.delay)
            return True
        return False

    def goes_on(self) -> None:
        """Let the command go on from its moment."""
        with contextlib.suppress(OSError):
            self.connection.send(None)

    def send(self, number: int) -> None:
        """Send the process the signal `number`, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def code(self, reader: int | None = None, patience: float = PATIENCE) -> int:
        """Wait for the end of the process; its exit code, negative for a signal."""
        for _ in self._says(reader, patience):
            pass
        self.process.join()
        code: int = self.process.exitcode
        return code

    def _says(self, reader: int | None, patience: float = PATIENCE) -> Iterator[list[str] | None]:
        """None at the moment, and the sites at the end; meanwhile reads what comes from `reader`."""
        heard = [self.connection, self.process.sentinel, *([] if reader is None else [reader])]
        silent = 0
        while silent * POLL < patience:
            ready = wait(heard, POLL)
            silent += not ready
            if reader in ready:
                with contextlib.suppress(OSError):
                    os.read(reader, 2**16)  # type: ignore[arg-type]
            if self.connection in ready:
                try:
                    said = self.connection.recv()
                except (EOFError, ConnectionError):
                    return
                self.sites = said or []
                yield said
            elif self.process.sentinel in ready:
                return
        raise TimeoutError(f"{' '.join(self.start.words)} hangs")


@contextlib.contextmanager
def started(starts: Sequence[Start]) -> Iterator[list[Process]]:
    """The processes of `starts`, which are killed at the end if they still run."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Process(start)) for start in starts]


def perform(connection: Connection, start: Start) -> None:
    """Run the command of `start`; the main function of its process."""
    os.environ["JAX_NUM_CPU_DEVICES"] = "1"
    os.chdir(start.folder)
    if start.leads:  # the terminal that is opened next, to read as well, is then its own
        os.setsid()
    mode = os.O_RDWR if start.leads else os.O_WRONLY
    for number, path in ((1, start.output), (2, start.errors)):
        os.dup2(os.open(path, mode | os.O_CREAT | os.O_APPEND), number)
    sys.stdout = open(1, "w", 1 if os.isatty(1) else -1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if start.moment:
        _keep_no_programs()
    if start.first:
        start.first()
    sys.argv = ["it", *start.words]
    watch = Watch(start, connection)
    sys.addaudithook(watch)
    try:
        start.main()
    except Exception:  # as the interpreter does, before what is registered for its end
        traceback.print_exc()
        sys.exit(1)
    finally:
        watch.moment = None
        connection.send(watch.sites)
        atexit._run_exitfuncs()  # which multiprocessing leaves out


def _keep_no_programs() -> None:
    """Store no compiled program, of which a killed process would leave a half for others to read."""
    import jax

    jax.config.update("jax_persistent_cache_min_compile_time_secs", NEVER)


class Watch:
    """An audit hook that notes each site, and waits at the moment."""

    def __init__(self, start: Start, connection: Connection):
        self.root, self.moment, self.connection = str(start.folder), start.moment, connection
        self.sites: list[str] = []
        self.counts: Counter[str] = Counter()

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in EVENTS or not (site := self._site(event, args)):
            return
        self.sites.append(site)
        self.counts[site] += 1
        moment = self.moment
        if moment and (moment.site, moment.occurrence) == (site, self.counts[site]):
            self.moment = None
            self.connection.send(None)
            self.connection.recv()

    def _site(self, event: str, args: tuple[Any, ...]) -> str:
        """The event and the name of the file, or "" if it is not below the folder."""
        if event == "fcntl.flock":
            return event
        if not isinstance(args[0], str | bytes | os.PathLike):
            return ""
        path = os.path.abspath(os.fsdecode(args[0]))
        if not path.startswith(self.root):
            return ""
        writes = event == "open" and args[2] & WRITING
        return f"{event}{' to write' if writes else ''} {NAMES.sub('#', path[len(self.root) :])}"

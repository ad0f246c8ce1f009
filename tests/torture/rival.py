"""A second process, in which a task runs while this one is in the middle of its own."""

import functools
import multiprocessing
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

from tests.torture.scenes import Outcome, Wrong
from tests.torture.tasks import TASKS, Task
from tests.torture.worker import last_line


def run_in_rival(task: Task, given: Path, out: Path) -> Outcome:
    """Run `task` in the second process, and wait for how it ends."""
    connection = _rival()
    connection.send((task.name, given, out))
    answer: Outcome | str = connection.recv()
    if isinstance(answer, str):
        raise Wrong(f"the second process: {answer}")
    return answer


@functools.cache
def _rival() -> Connection:
    """A connection to the second process, which is started once and ends with this one."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=_serve, args=(theirs, tempfile.gettempdir()), daemon=True).start()
    theirs.close()
    return ours


def _serve(connection: Connection, temporary: str) -> None:
    """Run each task whose name comes; the answer is its outcome, or what it raised."""
    tempfile.tempdir = temporary
    tasks = {task.name: task for task in TASKS}
    while True:
        try:
            name, given, out = connection.recv()
        except EOFError:  # the first process has ended
            return
        try:
            connection.send(tasks[name](given, out))
        except BaseException as error:
            connection.send(last_line(error))

"""A second process that runs a task while this one is in the middle of another."""

import functools
import multiprocessing
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

from tests.torture.situations import Outcome, Wrong
from tests.torture.tasks import TASKS, Task
from tests.torture.worker import last_line


def run_in_rival(task: Task, given: Path, out: Path) -> Outcome:
    """The outcome of `task` in the second process."""
    connection = _rival()
    connection.send((task.name, given, out))
    answer: Outcome | str = connection.recv()
    if isinstance(answer, str):
        raise Wrong(f"the second process: {answer}")
    return answer


@functools.cache
def _rival() -> Connection:
    """The connection to the second process, which starts once and ends with this one."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=_serve, args=(theirs, tempfile.gettempdir()), daemon=True).start()
    theirs.close()
    return ours


def _serve(connection: Connection, temporary: str) -> None:
    """Run each task whose name arrives; answer with its outcome, or with what it raised as text."""
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

"""Locks that one process holds at a time, and that the system releases when it ends."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from jaxgpt.errors import UserError


@contextlib.contextmanager
def locked(file: Path, mark: str, taken: str) -> Iterator[None]:
    """Hold the lock `file`, whose content is `mark`; `taken` is the error for a second process."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as handle:
        if not _flock(handle):
            raise UserError(taken)
        handle.truncate(0)
        handle.write(mark)
        handle.flush()
        yield


def is_locked(file: Path) -> bool:
    """Whether a process holds the lock `file`."""
    if not file.exists():
        return False
    with file.open() as handle:
        return not _flock(handle)


def _flock(handle: IO) -> bool:
    """Lock an open file until it is closed; False where another process has it."""
    import fcntl  # missing on Windows, where only this would fail

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

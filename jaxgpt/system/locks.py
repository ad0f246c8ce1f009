"""Locks that one process holds at a time, and that the system releases when it ends."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from jaxgpt.errors import UserError
from jaxgpt.system.atomic_files import errors_naming


@contextlib.contextmanager
def locked(file: Path, mark: str, taken: str) -> Iterator[None]:
    """Hold the lock `file`, whose content is `mark`; `taken` is the error for a second process."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b", buffering=0) as handle:
        if not _flock(handle):
            raise UserError(taken)
        _mark(handle, file, mark.encode())
        yield


def _mark(handle: IO[bytes], file: Path, mark: bytes) -> None:
    """Make `mark` the content of the opened `file`, which is removed if that fails."""
    handle.seek(0)
    if handle.read() == mark:
        return
    try:
        with errors_naming(file):
            handle.truncate(0)
            handle.write(mark)
    except OSError:
        file.unlink(missing_ok=True)
        raise


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

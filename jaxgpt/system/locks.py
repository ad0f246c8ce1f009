"""Locks that one process holds at a time, and that the system releases when it ends."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from jaxgpt.errors import UserError


@contextlib.contextmanager
def locked(file: Path, mark: str, taken: str) -> Iterator[None]:
    """Hold the lock `file`, whose content is `mark`; `taken` is the error if another process holds
    it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b", buffering=0) as handle:
        if not _flock(handle.fileno()):
            raise UserError(taken)
        _mark(handle, file, mark.encode())
        yield


def _mark(handle: IO[bytes], file: Path, mark: bytes) -> None:
    """Make `mark` the content of the opened `file`, which is removed if that fails."""
    handle.seek(0)
    if handle.read() == mark:
        return
    try:
        handle.truncate(0)
        handle.write(mark)
    except OSError as error:
        error.filename = str(file)
        file.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def being_written(path: Path) -> Iterator[None]:
    """Lock the file or folder `path` itself, so that no process considers it abandoned."""
    with _opened(path) as handle:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            _flock(handle)
        yield


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock on the file or folder `path`."""
    if not path.exists():
        return False
    with _opened(path) as handle:
        return not _flock(handle)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _flock(handle: int) -> bool:
    """Lock an open file until it is closed; False where another process has it."""
    import fcntl  # here, because Windows lacks it

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

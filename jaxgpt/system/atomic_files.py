"""Files that are whole or not there."""

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jaxgpt.errors import UserError
from jaxgpt.system import locks

PARTIAL = ".partial-"  # in the hidden name of what is being written, or removed


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Make a file to write that takes its name only when the block ends without error."""
    path = Path(path)
    if path.exists():
        raise UserError(
            f"{path} exists, and is not overwritten: move it away, or choose another name."
        )
    with replaced_file(path) as partial:
        yield partial


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Make a file to write that replaces `path` only when the block ends without error."""
    partial = path.with_name(f".{path.name}{PARTIAL}{os.getpid()}")
    with errors_naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        try:
            partial.touch()
            with locks.being_written(partial):
                yield partial
                sync(partial)
                partial.rename(path)
                sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def remove_abandoned(path: Path) -> None:
    """Remove what processes that were killed left of `path`, while another may be writing it."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}{PARTIAL}*"):
        with contextlib.suppress(OSError):  # it is complete by now, or nothing tells who writes it
            if not locks.is_locked(partial):
                remove(partial)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextlib.contextmanager
def errors_naming(path: Path) -> Iterator[None]:
    """Let an OSError that names no file, or a hidden partial one, name `path`."""
    try:
        yield
    except OSError as error:
        if error.errno and (error.filename is None or PARTIAL in str(error.filename)):
            error.filename, error.filename2 = str(path), None
        raise


def require_room(directory: Path, size: int) -> None:
    """Raise OSError at once, instead of in the middle of writing `size` bytes, on a full disk."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with tempfile.TemporaryFile(dir=directory) as file:
            os.posix_fallocate(file.fileno(), 0, size)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

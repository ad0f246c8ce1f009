"""Files that are whole or not there."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jaxgpt.errors import UserError

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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{PARTIAL}{os.getpid()}")
    try:
        yield partial
        sync(partial)
        partial.rename(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


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

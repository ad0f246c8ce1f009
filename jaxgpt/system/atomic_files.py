"""Files that are either complete or absent."""

import contextlib
import errno
import glob
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxgpt.errors import UserError
from jaxgpt.system import locks

PARTIAL = ".partial-"  # in the hidden names of files that are being written or removed
MOST_BYTES = 255  # the longest name on nearly every file system
ENDING_BYTES = 32  # what a hidden name adds to the name of its file
# What file systems, such as some network ones, raise if a folder cannot be synced.
UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A new file to write to, which takes its name only when the block ends without error."""
    path = Path(path)
    remove_abandoned(path)
    _require_new(path)
    with _written(path, _take_free_name) as partial:
        yield partial


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A new file to write to, which replaces `path` only when the block ends without error."""
    remove_abandoned(path)
    with _written(path, _take_name) as partial:
        yield partial


@contextlib.contextmanager
def _written(path: Path, take_name: Callable[[Path, Path], None]) -> Iterator[Path]:
    """A new file to write to, which `take_name` renames to `path` when the block ends without
    error."""
    partial = hidden(path, f"{PARTIAL}{secrets.token_hex(4)}")
    with errors_naming(path), folders_above(path):
        try:
            partial.touch()
            with locks.being_written(partial):
                yield partial
                sync(partial)
                take_name(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _require_new(path: Path) -> None:
    if os.path.lexists(path):
        raise UserError(
            f"{path} exists, and is not overwritten: move it away, or choose another name."
        )


def _take_name(partial: Path, path: Path) -> None:
    """Give the file `partial` the name `path`, replacing any file there."""
    partial.replace(path)
    sync_folder(path.parent)


def _take_free_name(partial: Path, path: Path) -> None:
    """Give the file `partial` the name `path`, unless another program has taken that name
    meanwhile."""
    try:
        os.link(partial, path)
    except OSError:  # the name is taken, or the file system has no hard links
        _require_new(path)
        partial.rename(path)
    try:
        sync_folder(path.parent)
    except OSError:
        path.unlink()
        raise


@contextlib.contextmanager
def folders_above(path: Path) -> Iterator[None]:
    """Make the missing folders above `path`, and remove these again if the block fails."""
    made = [folder for folder in path.parents if not folder.exists()]  # innermost first
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # another program may be using it by now
                folder.rmdir()
        raise


def hidden(path: Path, ending: str) -> Path:
    """A hidden name next to `path` that ends in `ending`, cut to the length that names can have."""
    name = os.fsencode(path.name)[: MOST_BYTES - ENDING_BYTES]
    return path.with_name(f".{name.decode(errors='ignore')}{ending}")


def remove_abandoned(path: Path) -> None:
    """Remove partial files of `path` that killed processes left; another process may be writing
    it."""
    for partial in path.parent.glob(f"{glob.escape(hidden(path, PARTIAL).name)}*"):
        with contextlib.suppress(
            OSError
        ):  # it is complete by now, or it cannot be known who writes it
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
    """Make an OSError that names no file, or a hidden partial one, name `path`."""
    try:
        yield
    except OSError as error:
        if error.errno and (error.filename is None or PARTIAL in str(error.filename)):
            error.filename, error.filename2 = str(path), None
        raise


def require_room(directory: Path, size: int) -> None:
    """Raise OSError now, rather than in the middle of writing `size` bytes, if the disk is too
    full."""
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


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where its file system can do so."""
    try:
        sync(path)
    except OSError as error:
        if error.errno not in UNSYNCED:
            raise

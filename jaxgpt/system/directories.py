"""Folders that are either complete or absent, each with a manifest of its files' checksums.

orbax and others also write folders atomically, but these folders hold files of any kind, and a copy
can be checked for completeness.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jaxgpt.errors import UserError, in_a_row, instead_of, require
from jaxgpt.file_names import CHECKPOINTS, LOCK, MANIFEST
from jaxgpt.system.atomic_files import (
    PARTIAL,
    errors_naming,
    folders_above,
    hidden,
    remove,
    remove_abandoned,
    sync,
    sync_folder,
)
from jaxgpt.system.json_files import read_json, write_json
from jaxgpt.system.locks import being_written, locked
from jaxgpt.system.unchanged import Unchanged


@contextlib.contextmanager
def new_directory(path: str | Path, partial: Path | None = None) -> Iterator[Path]:
    """A new folder to fill, which gets a manifest and its name when the block ends without error.

    Until then its name is `partial`, or temporary.
    """
    path = Path(path)
    require_vacant(path)
    with errors_naming(path), folders_above(resolved(path)):
        if partial is None:
            remove_abandoned(resolved(path))
            partial = hidden(resolved(path), f"{PARTIAL}{secrets.token_hex(4)}")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(mode=0o700)
            with being_written(partial):
                yield partial
                _complete(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextlib.contextmanager
def resumable_directory(path: str | Path) -> Iterator[Path]:
    """A new folder to fill, as from `new_directory`, which stays as it is if the process is
    interrupted.

    Until it is complete, it is hidden next to `path` and locked by the process that fills it.
    """
    path = Path(path)
    require_vacant(path)
    partial = hidden(resolved(path), ".unfinished")
    taken = f"{path} is being written by another process: wait for it, or choose another name."
    with errors_naming(path), locked(partial / LOCK, "", taken):
        remove_leftovers(partial)
        yield partial
        (partial / LOCK).unlink()
        _complete(partial, path)


def _complete(partial: Path, path: Path) -> None:
    """Add a manifest to `partial` and rename it to `path`, or to what `path` links to."""
    write_manifest(partial)
    for file in partial.rglob("*"):
        (sync_folder if file.is_dir() else sync)(file)
    sync_folder(partial)
    partial.chmod(0o755)  # temporary folders are private, and this one no longer is temporary
    require_vacant(path)  # another program may have taken the name meanwhile
    place = resolved(path)
    if place.exists():
        place.rmdir()  # not every file system can rename a folder over an empty one
    partial.rename(place)
    try:
        sync_folder(place.parent)
    except OSError:
        place.rename(partial)
        raise


def resolved(path: Path) -> Path:
    """The path that `path` leads to through links; a circular link stays itself."""
    return Path(os.path.realpath(path))


def partial_of(path: Path) -> Path:
    """The name of a folder while several processes fill it."""
    return hidden(resolved(path), PARTIAL)


def require_empty(path: Path) -> None:
    """Refuse a path that exists, except for an empty folder."""
    vacant = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    require(
        vacant,
        f"{path} exists and is not an empty directory: move it away, or choose another name.",
    )


def require_vacant(path: Path) -> None:
    """Refuse a path that exists, except for an empty folder that another one can replace."""
    require_empty(path)
    require(
        not path.is_mount(),
        f"{path} is where another file system begins, which no folder can replace: name a new "
        f"folder in it, such as {path / 'new'}.",
    )


def discard(directory: Path) -> None:
    """Remove a folder, so that a crash never leaves half of it under its name."""
    gone = hidden(directory, f"{PARTIAL}discarded")
    directory.rename(gone)
    shutil.rmtree(gone)


def remove_leftovers(directory: Path) -> None:
    """Remove what was being written or removed in `directory` when a process died."""
    for path in directory.glob(f".*{PARTIAL}*"):
        remove(path)


def nearby(path: Path, contents: Sequence[str]) -> str:
    """A suggestion for `path` among the directories next to it that have one of `contents`."""
    siblings = sorted(path.parent.glob("*/")) if path.parent.is_dir() else []
    names = [str(one) for one in siblings if any((one / name).exists() for name in contents)]
    return instead_of(str(path), names) if names else "There is none next to it."


def size(directory: Path) -> int:
    """Bytes of all files; those that vanish meanwhile are not counted."""
    total = 0
    for file in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.lstat().st_size if file.is_file() else 0
    return total


def write_manifest(directory: Path) -> None:
    """Write the sizes and checksums of all files in `directory`."""
    files = [
        file
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file != directory / MANIFEST
    ]
    with ThreadPoolExecutor() as threads:
        digests = threads.map(_sha256, files)
    entries = {
        str(file.relative_to(directory)): {"bytes": file.stat().st_size, "sha256": digest}
        for file, digest in zip(files, digests, strict=True)
    }
    write_json(directory / MANIFEST, {"files": entries})


def check_manifest(directory: Path) -> Unchanged:
    """Require that every file in the manifest is as it was written; other files are ignored.

    The returned object can check later that these files are still unchanged.
    """
    if directory.is_dir() and not (directory / MANIFEST).is_file():
        raise UserError(_without_manifest(directory))
    entries = read_json(directory / MANIFEST).get("files")
    require(
        isinstance(entries, dict) and all(isinstance(entry, dict) for entry in entries.values()),
        f"{directory / MANIFEST} is not a manifest that this program wrote.",
    )
    files = Unchanged(directory / name for name in (MANIFEST, *(entries or {})))
    with ThreadPoolExecutor() as threads:
        checked = threads.map(lambda item: _problem(directory, *item), (entries or {}).items())
        problems = [problem for problem in checked if problem]
    require(
        not problems,
        f"{directory} does not match its {MANIFEST}: {in_a_row(problems)}. The files were changed "
        "or damaged after they were written; restore them from a copy, or make the directory "
        "again.",
    )
    return files


def _without_manifest(directory: Path) -> str:
    """The error for a `directory` without a manifest; it names those in it that have one."""
    inner = [
        str(one)
        for one in sorted(directory.glob("*/"))
        if any((one / name).exists() for name in (MANIFEST, CHECKPOINTS))
    ]
    way_out = (
        f"Name one of the directories in it: {in_a_row(inner, ', ')}"
        if inner
        else "Name a model directory, a run or prepared data"
    )
    return f"{directory} has no {MANIFEST}, so jaxgpt did not write it. {way_out}."


def _problem(directory: Path, name: str, entry: dict[str, Any]) -> str:
    """The difference from the manifest's `entry`, or an empty string."""
    file = directory / name
    try:
        inside = file.resolve().is_relative_to(directory.resolve())
    except ValueError:  # a lone surrogate, or a null character
        return f"{name} is not the name of a file"
    if not inside:
        return f"{name} lies outside"
    try:
        missing = not file.is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return f"{name[:60]}... is too long for the name of a file"
    if missing:
        return f"{name} is missing"
    try:
        if (actual := file.stat().st_size) != entry.get("bytes"):
            return f"{name} has {actual} bytes, not {entry.get('bytes')}"
        digest, expected = _sha256(file), str(entry.get("sha256"))
    except FileNotFoundError:  # its run has just discarded it
        return f"{name} is gone"
    if digest != expected:
        return f"{name} has sha256 {digest[:12]}..., not {expected[:12]}..."
    return ""


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

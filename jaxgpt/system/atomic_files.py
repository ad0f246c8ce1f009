"""Files and folders that are whole or not there, checksums that say so, and locks. Knows not what is in them."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from jaxgpt.errors import UserError, instead_of

MANIFEST = "manifest.json"
PARTIAL = ".partial-"  # in the hidden name of what is being written, or removed


def partial_of(path: Path) -> Path:
    """The name that it has until it is whole; one that several processes know."""
    return path.with_name(f".{path.name}{PARTIAL}")


@contextlib.contextmanager
def new_directory(path: str | Path, partial: Path | None = None) -> Iterator[Path]:
    """A folder to fill; it takes its name, with a manifest of its files, only when the block ends without error."""
    path = Path(path)
    require_vacant(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if partial is None:
        partial = Path(tempfile.mkdtemp(prefix=f"{partial_of(path).name}", dir=path.parent))
    else:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    try:
        yield partial
        write_manifest(partial)
        _make_durable(partial)
        partial.chmod(0o755)  # a temporary folder is private, this one is no longer temporary
        partial.rename(path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def require_room(directory: Path, size: int) -> None:
    """An OSError at once, instead of one in the middle of writing so many bytes."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with tempfile.TemporaryFile(dir=directory) as file:
            os.posix_fallocate(file.fileno(), 0, size)


def require_vacant(path: Path) -> None:
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(
            f"{path} exists and is not an empty directory: move it away, or choose another name."
        )


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A file to write; it takes its name only when the block ends without error."""
    path = Path(path)
    if path.exists():
        raise UserError(
            f"{path} exists, and is not overwritten: move it away, or choose another name."
        )
    with replaced_file(path) as partial:
        yield partial


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A file to write over another, which stays as it was until the block ends without error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{PARTIAL}{os.getpid()}")
    try:
        yield partial
        _sync(partial)
        partial.rename(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def discard(directory: Path) -> None:
    """Out of sight first: a machine that dies meanwhile leaves no half of it under its name."""
    hidden = directory.with_name(f".{directory.name}{PARTIAL}discarded")
    directory.rename(hidden)
    shutil.rmtree(hidden)


def remove_leftovers(directory: Path) -> None:
    """What was being written or removed when a process died."""
    for path in directory.glob(f".*{PARTIAL}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextlib.contextmanager
def locked(file: Path, mark: str, taken: str) -> Iterator[None]:
    """For one process at a time, until it ends, however it ends; `mark` is what the file says, `taken` what a second
    process is told."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as handle:
        if not _flock(handle):
            raise UserError(taken)
        handle.truncate(0)
        handle.write(mark)
        handle.flush()
        yield


def is_locked(file: Path) -> bool:
    if not file.exists():
        return False
    with file.open() as handle:
        return not _flock(handle)


def _flock(handle: IO) -> bool:
    """The system lets go of it when the file is closed, by whomever."""
    import fcntl  # missing on Windows, where only this would fail

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_manifest(directory: Path) -> None:
    entries = {
        str(file.relative_to(directory)): {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file != directory / MANIFEST
    }
    write_json(directory / MANIFEST, {"files": entries})


def require_directory(directory: Path) -> None:
    """Refuse what is not a directory, and name a model directory or run beside it that may be meant."""
    if directory.is_file():
        raise UserError(
            f"{directory} is a file, but should be a model directory or a run. jaxgpt-convert to-flax "
            f"{directory} DIR makes a model directory of a PyTorch checkpoint."
        )
    if directory.is_dir():
        return
    beside = directory.parent.glob("*/") if directory.parent.is_dir() else []
    models = [
        str(path)
        for path in sorted(beside)
        if (path / MANIFEST).is_file() or (path / "checkpoints").is_dir()
    ]
    there = instead_of(str(directory), models) if models else "There is none beside it."
    raise UserError(
        f"{directory} is not a directory: it should be a model directory or a run. {there}"
    )


def check_manifest(directory: Path) -> None:
    """Every file that the manifest names is there, with the bytes it had; files beside them are nobody's business."""
    require_directory(directory)
    entries = read_json(directory / MANIFEST).get("files")
    if not isinstance(entries, dict) or not all(
        isinstance(entry, dict) for entry in entries.values()
    ):
        raise UserError(f"{directory / MANIFEST} is not a manifest that this program wrote.")
    problems = [
        problem for name, entry in entries.items() if (problem := _problem(directory, name, entry))
    ]
    if problems:
        raise UserError(
            f"{directory} does not match its {MANIFEST}: {'; '.join(problems)}. The files were changed or damaged "
            f"after they were written; restore them from a copy, or make the directory again."
        )


def _problem(directory: Path, name: str, entry: dict[str, Any]) -> str | None:
    file = directory / name
    if not file.resolve().is_relative_to(directory.resolve()):
        return f"{name} lies outside"
    if not file.is_file():
        return f"{name} is missing"
    if file.stat().st_size != entry.get("bytes"):
        return f"{name} has {file.stat().st_size} bytes, not {entry.get('bytes')}"
    if (found := sha256(file)) != entry.get("sha256"):
        return f"{name} has sha256 {found[:12]}..., not {str(entry.get('sha256'))[:12]}..."
    return None


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def size(directory: Path) -> int:
    """Bytes; files that vanish meanwhile count nothing."""
    total = 0
    for file in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.lstat().st_size if file.is_file() else 0
    return total


def write_json(file: Path, value: Any) -> None:
    with replaced_file(file) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def parse_json(text: str | bytes, where: object, way_out: str) -> Any:
    """The value that a JSON text stands for. Text that is no JSON, or is nested too deep, is the user's error."""
    try:
        return json.loads(text)
    except RecursionError:
        reason = "brackets are nested too deep in it"
    except ValueError as error:  # also text that is not UTF-8
        reason = str(error)
    raise UserError(f"{where} is not JSON: {reason}. {way_out}")


DAMAGED = "It was changed or damaged: restore it from a copy, or make the directory again."


def read_json(file: Path, way_out: str = DAMAGED, most: int | None = None) -> dict[str, Any]:
    """The JSON object in a file of at most `most` bytes; anything else is the user's error, which ends in `way_out`."""
    if not file.is_file():
        raise UserError(
            f"{file} is missing: {file.parent} is not a directory that this program wrote."
        )
    size = file.stat().st_size
    if most is not None and size > most:
        raise UserError(
            f"{file} has {size} bytes, but a file like it has at most {most}. {way_out}"
        )
    value = parse_json(file.read_bytes(), file, way_out)
    if not isinstance(value, dict):
        raise UserError(
            f"{file} must hold a JSON object, but holds a {type(value).__name__}. {way_out}"
        )
    return value


def _make_durable(directory: Path) -> None:
    for file in [*directory.rglob("*"), directory]:
        _sync(file)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""System calls on files below a folder, at any of which something can be made to happen."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.torture.guard import WRITING

READ, WRITE = "read", "write"
CHANGES = (
    "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
)  # fmt: skip
# Calls on an open file, for which Python has no audit event; their first argument is a descriptor.
ON_OPEN_FILES = ("fsync", "posix_fallocate")

Act = Callable[[str, str], None]  # takes READ or WRITE, and the path
_act: Act | None = None
_folder = ""


@contextlib.contextmanager
def watched(folder: Path, act: Act) -> Iterator[None]:
    """Call `act` before each call on a file below `folder`, which raises what `act` raises."""
    global _act, _folder
    _install()
    _act, _folder = act, str(folder.resolve()) + os.sep
    try:
        yield
    finally:
        _act = None


def _install() -> None:
    """Add the audit hook, once: it cannot be removed."""
    if getattr(_install, "done", False):
        return
    vars(_install)["done"] = True
    sys.addaudithook(_announced)
    for name in ON_OPEN_FILES:
        if hasattr(os, name):
            setattr(os, name, _announcing(getattr(os, name)))


def _announced(event: str, args: tuple[Any, ...]) -> None:
    if _act is None:
        return
    if event == "open" and isinstance(args[2], int):
        _tell(WRITE if args[2] & WRITING else READ, args[0])
    elif event in CHANGES:
        _tell(WRITE, args[0])


def _announcing(call: Callable[..., Any]) -> Callable[..., Any]:
    def announced(number: int, *args: Any) -> Any:
        if _act is not None:
            with contextlib.suppress(OSError):  # there is no list of open files
                path = os.readlink(f"/proc/self/fd/{number}")
                _tell(WRITE, path)
        return call(number, *args)

    return announced


def _tell(kind: str, path: Any) -> None:
    if _act is not None and isinstance(path, str | bytes | os.PathLike):
        name = os.path.abspath(os.fsdecode(path))
        if (name + os.sep).startswith(_folder):
            _act(kind, name)


class Count:
    """Counts calls of one `kind`, and does `deed` at number `at`, from 1; with `ever` at later ones, too."""

    def __init__(
        self, kind: str, at: int = 0, deed: Act = lambda kind, path: None, ever: bool = False
    ):
        self.kind, self.at, self.deed, self.ever = kind, at, deed, ever
        self.calls = 0

    def __call__(self, kind: str, path: str) -> None:
        if kind != self.kind:
            return
        self.calls += 1
        if self.calls == self.at or (self.ever and self.calls > self.at):
            self.deed(kind, path)

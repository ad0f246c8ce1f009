"""Refuses what reading a file must never do: write files, run programs, use the network."""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Prefixes of forbidden audit events. asyncio makes a pair of sockets to wake itself, without network.
FORBIDDEN = (
    "socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
    "socket.gethost", "subprocess.", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.fork",
    "os.startfile", "pty.", "pickle.find_class", "urllib.", "ftplib.", "http.client",
)  # fmt: skip
CHANGING = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "shutil.")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Guard:
    """Refuses and records forbidden acts inside of `watching`.

    They are recorded because the reader may swallow the error.
    """

    def __init__(self, writable: Path):
        self.writable = str(writable.resolve()) + os.sep
        self.active = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    @contextlib.contextmanager
    def watching(self) -> Iterator[list[str]]:
        """Watch until the end of the block; the list gets each forbidden act."""
        self.active, self.seen = True, []
        try:
            yield self.seen
        finally:
            self.active = False

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event.startswith(FORBIDDEN) or (
            event == "socket.__new__" and args[1] not in (socket.AF_UNIX, -1)
        ):
            self._refuse(f"{event} {args[:2]!r}")
        elif (
            event == "open" and isinstance(args[2], int) and args[2] & WRITING
        ) or event.startswith(CHANGING):
            self._require_inside(event, args[0])

    def _require_inside(self, event: str, path: Any) -> None:
        if isinstance(path, int) or os.fsdecode(path) == os.devnull:
            return
        if not os.path.realpath(path).startswith(self.writable):
            self._refuse(f"{event} {path!r}")

    def _refuse(self, act: str) -> None:
        self.seen.append(act[:200])
        raise PermissionError(f"a reader must not do this: {act[:200]}")

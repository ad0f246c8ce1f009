"""Small disks, limits on the size of files, and changes of a file while it is read."""

import contextlib
import functools
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.torture.situations import Wrong


def replace(random: Random, file: Path, twin: Path) -> None:
    content = bytearray(twin.read_bytes() or b"\0")
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    twin.write_bytes(content)
    twin.replace(file)


def cut(random: Random, file: Path, twin: Path) -> None:
    os.truncate(file, random.randrange(file.stat().st_size + 1))


def overwrite(random: Random, file: Path, twin: Path) -> None:
    content = file.read_bytes()
    with file.open("r+b") as stream:
        stream.seek(random.randrange(len(content) + 1))
        stream.write(random.randbytes(16))


def remove(random: Random, file: Path, twin: Path) -> None:
    file.unlink()


@contextlib.contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Limit the size of every file to `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def mount(*words: object) -> bool:
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, check=False)
    return done.returncode == 0


@functools.cache
def can_mount() -> bool:
    """Whether this process may mount a small disk in memory."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("mount"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        able = mount("-t", "tmpfs", "none", folder)
        if able:
            subprocess.run(["umount", folder], check=True)
        return able


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a disk in memory at `folder`."""
    if not mount("-t", "tmpfs", "-o", options, "none", folder):
        raise Wrong("a disk that could be mounted before cannot be now")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)

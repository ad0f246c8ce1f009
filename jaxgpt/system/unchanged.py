"""Files that must not change while they are read."""

import os
from collections.abc import Iterable
from pathlib import Path

from jaxgpt.errors import UserError

Version = tuple[int, ...]
GONE: Version = ()


class Unchanged:
    """The current versions of some files, to detect later that one was replaced or written to.

    A file is read in parts, by its name or through a mapping: without this, the parts could be of
    two different files.
    """

    def __init__(self, paths: Iterable[Path]):
        self.versions = {path: _version(path) for path in paths}

    def require(self) -> None:
        """Raise UserError if one of the files was replaced or written to.

        A file that is gone is fine, because an open file can still be read after its removal.
        """
        for path, version in self.versions.items():
            if _version(path) not in (version, GONE):
                raise UserError(
                    f"{path} was changed or replaced while it was read. Try again when nothing "
                    "writes to it."
                )


def _version(path: Path) -> Version:
    """A version of the file at `path`, which changes with its content; GONE if there is none."""
    try:
        about = os.stat(path)
    except (OSError, ValueError):  # no name contains a null character or a lone surrogate
        return GONE
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


NO_FILES = Unchanged(())

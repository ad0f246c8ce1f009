"""The two kinds of error that a person reads, and the checks that raise them."""

import difflib
import errno
import importlib
import operator
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """Something the user gave is wrong; the text is one paragraph that says what, and the way out."""


class Failure(RuntimeError):
    """Something outside went wrong, a full disk for instance; the text is one paragraph that says what to do."""


SYSTEM = {  # what the system could not do, whatever the user named; all else in an OSError is the user's to mend
    errno.ENOSPC: "the disk is full: make room, or name another place",
    errno.EDQUOT: "the quota is used up: make room, or name another place",
    errno.EFBIG: "the file would be larger than the system allows: raise that limit, or name another place",
    errno.EROFS: "the file system is read-only: name another place",
    errno.EIO: "the device failed to read or write: see whether it is damaged, or name another place",
}


def system_error(error: OSError, what: object = "") -> "UserError | Failure":
    """The UserError or Failure that says `error`, by its errno; `what` is the file where it names none."""
    path = error.filename or what
    where = f"{path}: " if path else ""
    if error.errno in SYSTEM:
        return Failure(f"{where}{SYSTEM[error.errno]}.")
    text = f"{where}{error.strerror or error}."
    return Failure(text) if error.errno is None else UserError(text)


def need(module: str, what: object, way_out: str = "") -> Any:
    """Import a module that need not be installed; `what` needs it, `way_out` is what to do without."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        without = f", or {way_out}" if way_out else ""
        raise UserError(
            f"{what} needs {package}, which cannot be imported ({error}): pip install --upgrade {package}{without}."
        ) from None


def require(condition: bool, problem: str) -> None:
    if not condition:
        raise UserError(problem)


def require_positive(section: Any, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        require(value > 0, f"{name} must be positive, but is {value}.")


def whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise UserError(f"{name} must be a whole number, but is {value!r}.") from None


def instead_of(name: str, known: Iterable[str]) -> str:
    """What may have been meant."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."


def divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)


def in_a_row(texts: Iterable[str], separator: str = "; ", most: int = 8) -> str:
    """The first `most` texts in one line, safe to print: hostile names hold line breaks and terminal commands."""
    plain = [text if text.isprintable() else ascii(text)[1:-1] for text in texts]
    return separator.join(
        plain[:most] + ([f"and {len(plain) - most} more"] if len(plain) > most else [])
    )

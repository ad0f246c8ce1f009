"""The two kinds of error that are shown to users, and the checks that raise them."""

import difflib
import errno
import operator
from collections.abc import Iterable
from typing import Any

MOST_DIVISOR = 100_000  # finding the divisors of a size of 2**62 would take centuries


class UserError(ValueError):
    """Wrong input from the user; the text is one paragraph with the problem and the way out."""


class Failure(RuntimeError):
    """A failure of the system, such as a full disk; the text is one paragraph with the way out."""


# Failures of the system that do not depend on what the user named; other OSErrors are user errors.
SYSTEM = {
    errno.ENOSPC: "the disk is full: make room, or name another place",
    errno.EDQUOT: "the quota is used up: make room, or name another place",
    errno.EFBIG: "it is larger than the system allows: raise that limit, or name another place",
    errno.EROFS: "the file system is read-only: name another place",
    errno.EIO: "the device failed to read or write: check it for damage, or name another place",
}


def is_of_the_system(error: BaseException) -> bool:
    """Whether `error` means that a file could not be opened or read, not that its content is
    wrong."""
    return isinstance(error, OSError) and (error.filename is not None or error.errno in SYSTEM)


def system_error(error: OSError, what: object = "") -> "UserError | Failure":
    """`error` in our words: a Failure if its errno is in SYSTEM or missing, else a UserError.

    `what` is the file to name if the error names none.
    """
    path = error.filename or what
    where = f"{path}: " if path else ""
    if error.errno in SYSTEM:
        return Failure(f"{where}{SYSTEM[error.errno]}.")
    text = f"{where}{error.strerror or error}."
    return Failure(text) if error.errno is None else UserError(text)


def require(condition: bool, problem: str) -> None:
    """Raise UserError with the text `problem` unless `condition` holds."""
    if not condition:
        raise UserError(problem)


def require_positive(section: Any, *names: str) -> None:
    """Require that the fields `names` of `section` are greater than zero."""
    for name in names:
        value = getattr(section, name)
        require(value > 0, f"{name} must be positive, but is {value}.")


def require_not_negative(section: Any, *names: str) -> None:
    """Require that the fields `names` of `section` are at least zero."""
    for name in names:
        value = getattr(section, name)
        require(value >= 0, f"{name} must not be negative, but is {value}.")


def require_below_one(section: Any, *names: str) -> None:
    """Require that the fields `names` of `section` are in [0, 1)."""
    for name in names:
        value = getattr(section, name)
        require(0 <= value < 1, f"{name} must lie in [0, 1), but is {value}.")


def whole(name: str, value: Any) -> int:
    """`value` as an int, if it is a whole number; `name` is what the error calls it."""
    try:
        return operator.index(value)
    except TypeError:
        raise UserError(f"{name} must be a whole number, but is {value!r}.") from None


def instead_of(name: str, known: Iterable[str]) -> str:
    """A suggestion for the unknown `name`: the nearest of the `known` ones, or all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."


def divisors(n: int) -> str:
    """The divisors of `n` up to MOST_DIVISOR, for an error message."""
    return ", ".join(str(d) for d in range(1, min(n, MOST_DIVISOR) + 1) if n % d == 0)


def printable(text: str) -> str:
    """`text` in one line, with control characters escaped."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def in_a_row(texts: Iterable[str], separator: str = "; ", most: int = 8) -> str:
    """The first `most` of `texts` in one line, safe to print.

    Hostile names contain line breaks and terminal commands.
    """
    plain = [printable(text) for text in texts]
    shown = plain[:most]
    if len(plain) > most:
        shown.append(f"and {len(plain) - most} more")
    return separator.join(shown)

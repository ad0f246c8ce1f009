"""The part of disks: calls that fail, full disks, files that change, two programs at once.

Each command does its work, or ends with one paragraph and the exit code of docs/promises.md. What was
there before is unchanged, nothing else is left behind, and once the disk is in order the same command
does its work.
"""

import contextlib
import errno
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tests.torture import disk, names, situations
from tests.torture.calls import READ, WRITE, Act, Count, watched
from tests.torture.parts import Orders
from tests.torture.rival import run_in_rival
from tests.torture.runner import Line
from tests.torture.situations import Outcome, Situation, refusal_of, require
from tests.torture.tasks import (
    GOES_ON,
    TASKS,
    Task,
    begin,
    bytes_of,
    calls_of,
    copy_read,
    done_and_right,
    expected_of,
    given_in,
    meaning,
    meaning_of,
    require_right,
    snapshot,
)

# The exit code for each error: 1 for what the system could not do, 2 for what the user may not do.
CODES = {
    errno.ENOSPC: 1, errno.EDQUOT: 1, errno.EIO: 1, errno.EROFS: 1, errno.EFBIG: 1,
    errno.EACCES: 2, errno.EPERM: 2,
}  # fmt: skip
READING = (errno.EIO, errno.EACCES, errno.ENOENT)
PAGE = 4096
WRITERS = tuple(task for task in TASKS if task.writes)
REPEATED = ("run", "look.png")  # what a second command goes on with, or replaces
NEAR = 40 * PAGE  # bytes that may be beside what is written


def failing_calls(random: Random, path: Path) -> str:
    """The N-th call that changes a file fails; sometimes all later ones do, too."""
    task, given, out = _set_out(random, WRITERS, path)
    number, ever = random.choice(list(CODES)), random.random() < 0.5
    at = 1 + random.randrange(calls_of(task, given, WRITE))
    with watched(out, Count(WRITE, at, _failing(number), ever)):
        ended = task(given, out)
    return _judged(task, ended, given, out, (CODES[number], 1), left_over=ever)


def failing_reads(random: Random, path: Path) -> str:
    """The N-th file that is opened to read cannot be; sometimes all later ones cannot, either."""
    task, given, out = _set_out(random, TASKS, path)
    number = random.choice(READING)
    at = 1 + random.randrange(calls_of(task, given, READ))
    with watched(given, Count(READ, at, _failing(number), ever=random.random() < 0.5)):
        ended = task(given, out)
    return _judged(task, ended, given, out, (1, 2))


def _failing(number: int) -> Act:
    """A call that fails with the errno `number`."""

    def fail(kind: str, name: str) -> None:
        raise OSError(number, os.strerror(number), name)

    return fail


def full_disk(random: Random, path: Path) -> str:
    """The disk is full or read-only, or no file may become larger than a limit."""
    task, given, out = _set_out(random, WRITERS, path)
    size = random.randrange(bytes_of(task, given) + NEAR)
    if random.random() < 0.3 or not disk.can_mount():
        with disk.file_limit(size):
            ended = task(given, out)
        return _judged(task, ended, given, out, (1,))
    shutil.rmtree(out)
    out.mkdir()
    with disk.mounted(out, f"size={max(1, size // PAGE) * PAGE}"):
        with contextlib.suppress(OSError):
            begin(task, given, out)
        if random.random() < 0.2:
            disk.mount("-o", "remount,ro", out)
        ended = task(given, out)
        # The copy of a run that is to go on may itself have been cut short by the full disk.
        refusal = refusal_of(ended, (1, 2) if task.name == GOES_ON else (1,))
        if refusal and task.name not in ("train", GOES_ON):
            require(not snapshot(out), f"{sorted(snapshot(out))} is left of {task.name}")
        if not refusal:
            require_right(task, ended, out, expected_of(task, given))
    return refusal


def changing_files(random: Random, path: Path) -> str:
    """A file is replaced, cut, overwritten or removed when the N-th file is about to be opened."""
    original = given_in(path.parent)
    task = random.choice([each for each in TASKS if each.name not in ("train", GOES_ON)])
    first, second = path / "given", path / "other"
    copy_read(task, original, first)
    copy_read(task, original, second)
    files = sorted(each for each in (first / task.reads).rglob("*") if each.is_file())
    changed = random.choice(files or [first / task.reads])
    twin = second / changed.relative_to(first)
    deed = random.choice((disk.replace, disk.cut, disk.overwrite, disk.remove))
    expected = expected_of(task, original)
    at = 1 + random.randrange(calls_of(task, original, READ))

    def change(kind: str, name: str) -> None:
        if changed.exists():
            deed(random, changed, twin)

    out = path / "out"
    out.mkdir()
    with watched(first, Count(READ, at, change)):
        ended = task(first, out)
    if refusal := refusal_of(ended):
        require(not snapshot(out), f"{sorted(snapshot(out))} is left of {task.name}")
        return refusal
    now = meaning(task, ended, out)
    if now != expected and not _same_beside_paths(task, now, expected):
        new = path / "new"
        new.mkdir()
        again = task(first, new)
        right = again.code == 0 and meaning(task, again, new) == now
        require(right, f"{task.name} took {changed.name}, {deed.__name__}, for something else")
    return ""


def two_programs(random: Random, path: Path) -> str:
    """At the N-th change of a file by one command, another one runs on the same folders."""
    task, given, out = _set_out(random, WRITERS, path)
    rival = random.choice(
        [each for each in WRITERS if each.writes == task.writes and each is not task] or [task]
    )
    at = 1 + random.randrange(calls_of(task, given, WRITE))
    endings: list[Outcome] = []

    def interfere(kind: str, name: str) -> None:
        endings.append(run_in_rival(rival, given, out))

    with watched(out, Count(WRITE, at, interfere)):
        ended = task(given, out)
    if not endings:
        return _judged(task, ended, given, out, ())
    (other,) = endings
    texts = [refusal_of(one, (2,)) for one in (ended, other)]
    require(not all(texts), f"neither of the two commands did its work: {texts}")
    require(any(texts) or task.writes in REPEATED, f"both commands say they wrote {task.writes}")
    winners = [one for one, text in zip((task, rival), texts, strict=True) if not text]
    outcome = ended if not texts[0] else other
    require_right(winners[0], outcome, out, *(expected_of(one, given) for one in (task, rival)))
    return next(filter(None, texts), "")


def clocks(random: Random, path: Path) -> str:
    """The clock of the system jumps back and forth."""
    import time

    task, given, out = _set_out(random, TASKS, path)
    real = time.time, time.time_ns
    jumps = [random.choice((0, 1, -(10**6), 10**9, 2**33, -1.5e9)) for _ in range(50)]

    def jumped() -> float:
        return max(0.0, real[0]() + random.choice(jumps))

    time.time, time.time_ns = jumped, lambda: int(jumped() * 1e9)  # type: ignore[assignment]
    try:
        ended = task(given, out)
    finally:
        time.time, time.time_ns = real
    return _judged(task, ended, given, out, ())


def _set_out(random: Random, tasks: tuple[Task, ...], path: Path) -> tuple[Task, Path, Path]:
    """A random task, the folder with the files that it reads, and the folder that it writes to."""
    task, given, out = random.choice(tasks), given_in(path.parent), path / "out"
    expected_of(task, given)
    out.mkdir()
    begin(task, given, out)
    return task, given, out


def _judged(
    task: Task,
    ended: Outcome,
    given: Path,
    out: Path,
    codes: tuple[int, ...],
    left_over: bool = False,
) -> str:
    """The refusal of a task that was hindered, or ""; what it left must be in order."""
    refusal, expected = refusal_of(ended, codes), expected_of(task, given)
    if not refusal:
        require_right(task, ended, out, expected)
        return ""
    if task.name not in ("train", GOES_ON):
        names = sorted(each.name for each in out.iterdir())
        if left_over:  # nothing could be removed, either
            names = [name for name in names if ".partial-" not in name]
        if left_over and names == [task.writes] and meaning_of(out / names[0]) == expected:
            names = []
        require(not names, f"{names} is left of {task.name}, which ended with: {refusal}")
        shutil.rmtree(out)
        out.mkdir()
    done_and_right(task, given, out, expected)
    return refusal


def _same_beside_paths(task: Task, now: Any, expected: Any) -> bool:
    """Whether the pages `now` and `expected` differ only in the paths that they begin with."""
    return isinstance(now, str) and now.split()[2:] == expected.split()[2:]


SITUATIONS: tuple[Situation, ...] = (
    Situation("a change that fails", failing_calls),
    Situation("a file that cannot be read", failing_reads),
    Situation("a full disk", full_disk),
    Situation("a file that changes", changing_files),
    Situation("two programs", two_programs),
    Situation("a clock that jumps", clocks),
    Situation("odd names", names.odd_names),
    Situation("links", names.links),
)
LINES = tuple(situation.name for situation in SITUATIONS)
run: Callable[[Orders], list[Line]] = functools.partial(situations.run, SITUATIONS)

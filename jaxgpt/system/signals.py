"""Ctrl-C and SIGTERM, held back while a step is under way. Knows no step."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Stopped(KeyboardInterrupt):
    """By the signal whose number is args[0]."""


class Signals:
    """A signal stops what runs at once; while `held`, the first one is only noted, in `caught`."""

    held = False
    caught: int | None = None

    def handle(self, number: int, frame: Any) -> None:
        """Raised or not, it is noted: an exception inside a destructor gets lost."""
        before, self.caught = self.caught, number
        if before or not self.held:
            raise Stopped(number)


@contextlib.contextmanager
def signals() -> Iterator[Signals]:
    """Only a program's main thread may ask for signals; elsewhere none come."""
    kept = Signals()
    here = threading.current_thread() is threading.main_thread()
    before = {
        number: signal.signal(number, kept.handle)
        for number in (signal.SIGINT, signal.SIGTERM)
        if here
    }
    try:
        yield kept
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

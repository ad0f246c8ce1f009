"""A thread that works in parallel with the training loop, one job after another."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Background:
    """A worker thread. An exception in a job is raised by the next call of any method."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._job: Future | None = None

    def start(self, job: Callable[[], Any]) -> None:
        """Start `job` after the one before: at most one is in memory."""
        self.wait()
        self._job = self._thread.submit(job)

    def check(self) -> None:
        """Raise what the job has raised, if it is done."""
        if self._job and self._job.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the job, and raise what it has raised."""
        if self._job:
            try:
                self._job.result()
            finally:
                if self._job.done():  # otherwise the wait was interrupted, not the job
                    self._job = None

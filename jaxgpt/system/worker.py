"""Work that goes on beside the loop, one job after another. Knows nothing of the jobs."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Background:
    """What a job raises, the next call of any method raises: nothing fails unseen."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._job: Future | None = None

    def start(self, job: Callable[[], Any]) -> None:
        """Waits for the job before: at most one is held in memory."""
        self.wait()
        self._job = self._thread.submit(job)

    def check(self) -> None:
        if self._job and self._job.done():
            self.wait()

    def wait(self) -> None:
        if self._job:
            try:
                self._job.result()
            finally:
                if self._job.done():  # else the waiting was interrupted, and not the job
                    self._job = None

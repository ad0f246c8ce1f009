"""The thread that generates: as many waiting requests as fit form a batch.

A batch runs to its end before the next one begins; each request is answered as soon as its own
texts have ended.
"""

import contextlib
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxgpt.errors import UserError
from jaxgpt.generation.batch import Request, make_batch
from jaxgpt.generation.options import SampleOptions
from jaxgpt.generation.prompt import padded_width
from jaxgpt.generation.stream import Piece, stream_batch
from jaxgpt.generation.weights import Weights
from jaxgpt.serving.choice import Choice
from jaxgpt.serving.limits import Limits
from jaxgpt.serving.refusal import Refusal


class Delta(NamedTuple):
    """An addition to one text of an answer."""

    choice: Choice
    text: str
    logprobs: dict[str, Any]
    finish_reason: str  # "" until the text ends


Event = list[Delta] | Refusal
Deliver = Callable[[Event], None]


class Job:
    """The texts of one request, and the function that receives its events."""

    def __init__(self, request: Request, choices: Sequence[Choice], deliver: Deliver):
        self.request, self.choices, self.deliver = request, choices, deliver
        self.cancelled = False

    @property
    def ended(self) -> bool:
        """Whether the job is cancelled, or all of its texts have ended."""
        return self.cancelled or all(choice.finish_reason for choice in self.choices)

    def take(self, piece: Piece, first: int) -> None:
        """Deliver the part of `piece` in the rows of this job, which begin at `first`."""
        deltas = []
        for row, choice in enumerate(self.choices, first):
            if choice.finish_reason:
                continue
            text = choice.add(piece.ids[row], piece.logprobs[row])
            if text or choice.finish_reason:
                deltas.append(Delta(choice, text, choice.logprobs(), choice.finish_reason))
        if deltas and not self.cancelled:
            self.deliver(deltas)


class Engine:
    """A queue of jobs, and the thread that generates them with `weights`."""

    def __init__(self, weights: Weights, shared: dict[str, Any], limits: Limits):
        self.weights, self.shared, self.limits = weights, shared, limits
        self.config = weights.modules()[0].config
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self.changed = threading.Condition()
        self.closed = self.abandoned = False
        self.thread = threading.Thread(target=self._run, name="generation", daemon=True)

    def options(self, **fields: Any) -> SampleOptions:
        """The SampleOptions with `fields` and with what all requests share."""
        return SampleOptions(**{**self.shared, **fields})

    def start(self) -> None:
        """Generate two tokens, to be sure that the model works, and start the thread."""
        one = Request([[0]], self.options(max_new_tokens=2))
        for _ in stream_batch(self.weights, make_batch([one], self.config)):
            pass
        self.thread.start()

    def submit(self, job: Job) -> None:
        """Queue `job`, or refuse it if the queue is full or the server is stopping."""
        with self.changed:
            if self.closed:
                raise Refusal(503, "The server is stopping.", "stopping")
            if len(self.waiting) >= self.limits.queue:
                raise Refusal(
                    429,
                    f"{len(self.waiting)} requests are waiting, the limit: try again later.",
                    "queue_full",
                )
            self.waiting.append(job)
            self.changed.notify()

    def cancel(self, job: Job) -> None:
        """Drop `job`, waiting or running, as its answer is no longer wanted."""
        with self.changed:
            job.cancelled = True
            with contextlib.suppress(ValueError):
                self.waiting.remove(job)

    def close(self) -> None:
        """Accept no more jobs, and refuse those that are waiting; running jobs continue."""
        with self.changed:
            self.closed = True
            for job in self.waiting:
                job.deliver(Refusal(503, "The server is stopping.", "stopping"))
            self.waiting.clear()
            self.changed.notify()

    def join(self, seconds: float) -> None:
        """Abandon what is still running, and wait up to `seconds` for the thread."""
        self.abandoned = True
        self.thread.join(seconds)

    def _run(self) -> None:
        while jobs := self._next():
            try:
                self._generate(jobs)
            except Exception as error:  # an error in one batch must not end the server
                for job in jobs:
                    job.deliver(_failure(error))

    def _next(self) -> list[Job]:
        """The jobs that have waited longest, as many as fit; none once the server is stopping."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.closed)
            self.running, rows = [], 0
            while self.waiting and rows + self.waiting[0].request.rows <= self.limits.rows:
                self.running.append(self.waiting.popleft())
                rows += self.running[-1].request.rows
            return self.running

    def _generate(self, jobs: Sequence[Job]) -> None:
        """Generate all texts of `jobs`."""
        requests = [job.request for job in jobs]
        rows = sum(request.rows for request in requests)
        # A program is compiled for each number of rows, so the number is rounded up to a power of
        # two. The additional rows copy a prompt, because any other would shorten the prefix that
        # all rows share.
        filler = Request(requests[0].prompts[:1], self.options(max_new_tokens=1))
        requests += [filler] * (padded_width(rows) - rows)
        for piece in stream_batch(self.weights, make_batch(requests, self.config)):
            first = 0
            for job in jobs:
                job.take(piece, first)
                first += job.request.rows
            if self.abandoned or all(job.ended for job in jobs):
                return


def _failure(error: Exception) -> Refusal:
    """The answer to requests whose batch failed with `error`."""
    if isinstance(error, UserError):
        return Refusal(500, str(error), "generation_failed")
    print("".join(traceback.format_exception(error)), file=sys.stderr, flush=True)
    return Refusal(500, "The server failed; its log says why.", "internal_error")

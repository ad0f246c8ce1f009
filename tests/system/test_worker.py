import threading
from concurrent.futures import Future

import pytest

from jaxgpt.system.worker import Background


def fail() -> None:
    raise OSError("the disk is full")


def test_a_job_runs_in_the_background_and_the_next_one_waits_for_it() -> None:
    gate, order = threading.Event(), []
    background = Background()
    background.start(lambda: (gate.wait(), order.append("first")))
    background.check()
    assert order == []
    gate.set()
    background.start(lambda: order.append("second"))
    background.wait()
    assert order == ["first", "second"]


@pytest.mark.parametrize("call", ["wait", "check", "start"])
def test_an_exception_in_a_job_is_raised_once(call: str) -> None:
    background, done = Background(), threading.Event()
    background.start(fail)
    background._thread.submit(done.set)
    done.wait()
    with pytest.raises(OSError, match="the disk is full"):
        background.start(print) if call == "start" else getattr(background, call)()
    background.wait()


def test_an_interrupted_wait_can_be_resumed() -> None:
    gate, done = threading.Event(), []
    background = Background()
    background.start(lambda: (gate.wait(), done.append(True)))
    assert background._job is not None
    job, background._job = background._job, Interrupted(background._job)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        background.wait()
    background._job = job
    gate.set()
    background.wait()
    assert done == [True]


class Interrupted:
    """A job that is interrupted while somebody waits for it."""

    def __init__(self, job: Future):
        self.job = job

    def result(self) -> None:
        raise KeyboardInterrupt

    def done(self) -> bool:
        return self.job.done()

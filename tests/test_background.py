import threading

import pytest

from jaxgpt.background import Background


def fail() -> None:
    raise OSError("the disk is full")


def test_a_job_runs_beside_us_and_the_next_one_waits_for_it() -> None:
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
def test_what_a_job_raises_comes_up_once(call: str) -> None:
    background, done = Background(), threading.Event()
    background.start(fail)
    background._thread.submit(done.set)
    done.wait()
    with pytest.raises(OSError, match="the disk is full"):
        background.start(print) if call == "start" else getattr(background, call)()
    background.wait()

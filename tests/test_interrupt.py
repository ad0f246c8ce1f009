import os
import signal
import threading

import pytest

from jaxgpt.system.signals import Stopped, signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_once_unless_held_and_the_second_always_does(number: int) -> None:
    before = signal.getsignal(number)
    with signals() as kept:
        with pytest.raises(Stopped, match=str(int(number))):
            os.kill(os.getpid(), number)
        assert kept.caught == number  # in case whoever was interrupted swallowed it
        kept.caught = None
        kept.held = True
        os.kill(os.getpid(), number)
        assert kept.caught == number
        with pytest.raises(Stopped):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_nothing_is_asked_for() -> None:
    found = []

    def ask() -> None:
        with signals() as kept:
            found.append(kept.caught)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert found == [None]

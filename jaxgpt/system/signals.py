"""Ctrl-C, SIGTERM and a closed terminal, which can be held back until a step is done.

The training loop holds them back and saves (`training.loop`); `commands.shell` ends the process
with exit code 130, 143 or 129; `devices.distributed` stops the other processes of a run.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

AGAIN = 0.1  # seconds until a signal that came at a bad moment is sent again
INSTALLED = ("site-packages", "dist-packages")  # the folders of installed libraries


def stop_signals() -> list[int]:
    """The signals that stop a command: SIGHUP, of a terminal that is closed, unless under nohup."""
    hangup = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    return [signal.SIGINT, signal.SIGTERM, *hangup]


class Stopped(KeyboardInterrupt):
    """The exception that a signal raises; args[0] is the number of the signal."""


class Signals:
    """The state of handling: a signal raises Stopped at once, unless `held`.

    While `held`, the first one is only noted in `caught`, and a second one raises.
    """

    held = False
    caught: int | None = None
    raised: int | None = None  # the last one that raised Stopped

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the signal `number`, and raise Stopped unless it is to be held back."""
        if _importing_library(frame):
            _send_again(number)
            return
        # Noted even where it is raised: an exception inside a destructor gets lost.
        before, self.caught = self.caught, number
        if before or not self.held:
            self.raised = number
            raise Stopped(number)


@contextlib.contextmanager
def signals() -> Iterator[Signals]:
    """Handle these signals within the block; only a program's main thread gets any.

    An exception that follows Stopped becomes one: jax turns what is raised inside a trace into a
    ValueError.
    """
    state = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield state
        return
    before = {number: signal.signal(number, state.handle) for number in stop_signals()}
    hook = sys.unraisablehook
    sys.unraisablehook = _rescuing(hook)
    try:
        yield state
    except Exception as error:
        if state.raised:
            raise Stopped(state.raised) from error
        raise
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _importing_library(frame: FrameType | None) -> bool:
    """Whether an installed library is being imported.

    jaxlib crashes if its own import is interrupted, and others leave behind half a module.
    """
    while frame and frame.f_back:
        imported = frame.f_back.f_code.co_filename.startswith("<frozen importlib")
        if imported and any(folder in frame.f_code.co_filename for folder in INSTALLED):
            return True
        frame = frame.f_back
    return False


def _rescuing(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """An unraisable hook that sends a signal again whose exception got lost.

    That happens inside destructors and garbage collection, for which jax has a callback.
    """

    def lost(what: Any) -> None:
        if isinstance(what.exc_value, Stopped):
            _send_again(what.exc_value.args[0])
        else:
            hook(what)

    return lost


def _send_again(number: int) -> None:
    """Send the signal `number` to this process, a little later."""
    timer = threading.Timer(AGAIN, os.kill, [os.getpid(), number])
    timer.daemon = True
    timer.start()

"""Handles Ctrl-C, SIGTERM and a closed terminal; signals can be held back until a step is done.

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

AGAIN = 0.1  # seconds until a signal whose exception was lost is sent again
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
    raised: int | None = None  # the last signal that raised Stopped

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the signal `number`, and raise Stopped unless it is to be held back."""
        if _importing_library(frame):
            _send_again(number)
            return
        # Noted even if it is raised, because an exception inside a destructor is lost.
        before, self.caught = self.caught, number
        if before or not self.held:
            self.raised = number
            raise Stopped(number)


@contextlib.contextmanager
def signals() -> Iterator[Signals]:
    """Handle these signals within the block; only the main thread of a program receives signals.

    Any exception after Stopped is replaced by Stopped, because jax turns exceptions inside a trace
    into ValueErrors.
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

    jaxlib crashes if its import is interrupted, and other libraries leave half-initialised modules.
    """
    while frame and frame.f_back:
        imported = frame.f_back.f_code.co_filename.startswith("<frozen importlib")
        if imported and any(folder in frame.f_code.co_filename for folder in INSTALLED):
            return True
        frame = frame.f_back
    return False


def _rescuing(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """An unraisable hook that sends a signal again if its exception was lost.

    That happens inside destructors and in garbage collection, where jax has a callback.
    """

    def lost(what: Any) -> None:
        if isinstance(what.exc_value, Stopped):
            _send_again(what.exc_value.args[0])
        else:
            hook(what)

    return lost


def _send_again(number: int) -> None:
    """Send the signal `number` to this process after a short delay."""
    timer = threading.Timer(AGAIN, os.kill, [os.getpid(), number])
    timer.daemon = True
    timer.start()

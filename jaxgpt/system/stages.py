"""Reports the progress of long work, to a caller or on a terminal."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

# (name of the stage, amount of work in it) -> a function to call with each amount that is done
Stage = Callable[[str, int], Callable[[int], None]]
PATIENCE = 2.0  # seconds before a function of the library shows its progress


def silent(name: str, total: int) -> Callable[[int], None]:
    """A Stage that shows nothing."""
    return lambda done: None


@contextlib.contextmanager
def working(what: str, after: float = 0.0) -> Iterator[Stage]:
    """Show on a terminal that `what` is being done, with a bar for stages of known length.

    The display appears on stderr after `after` seconds, and is removed at the end.
    """
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = progress.add_task(escape(what), total=None)

    def stage(name: str, total: int) -> Callable[[int], None]:
        progress.reset(task, total=total or None, description=escape(f"{what}: {name}"))
        return lambda done: progress.advance(task, done)

    # A timer, because a single call into torch or JAX can take longer than the delay.
    timer = threading.Timer(after, progress.start)
    timer.daemon = True
    timer.start()
    try:
        yield stage
    finally:
        timer.cancel()
        timer.join()
        progress.stop()

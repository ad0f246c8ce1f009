"""A progress bar for long work."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

PATIENCE = 2.0  # seconds before a progress bar appears
Item = TypeVar("Item")


def with_progress(
    items: Iterator[Item], what: str, size: Callable[[Item], int], total: int | None
) -> Iterator[Item]:
    """The items, with a progress bar on a terminal when they take longer than PATIENCE."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich import console, progress

    columns = (
        progress.TextColumn(what),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TimeRemainingColumn(),
    )
    bar = progress.Progress(*columns, console=console.Console(stderr=True), transient=True)
    task, started = bar.add_task(what, total=total), time.monotonic()
    try:
        for item in items:
            yield item
            bar.advance(task, size(item))
            if time.monotonic() - started > PATIENCE:
                bar.start()
    finally:
        bar.stop()

"""The display of a run: a line that is updated on a terminal, successive lines elsewhere."""

import contextlib
import errno
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxgpt.config import Config
from jaxgpt.devices.chips import chip
from jaxgpt.model import flops

Say = Callable[[str], None]  # prints a line
# (step, number of steps, text): shows a line until the next one replaces it
Passing = Callable[[int, int, str], None]

STEP = "step "  # the start of a line of figures
BAR = 24  # columns
WIDE = 120  # columns of a terminal with room for the bar
SPARE = (  # the order in which figures are left out on a narrow terminal
    r"  norm \S+",
    r"  lr \S+",
    r"  MFU \S+",
    r"  \S+ tokens/s",
    r"  \S+ left",
    r" \([^)]*\)",
    r"  val \S+",
)


class Progress:
    """The speed of a run, and the last value of each figure, shown as lines."""

    def __init__(
        self,
        config: Config,
        devices: Sequence[Any],
        say: Say,
        passing: Passing | None = None,
        evaluated_on: str = "",
        *,
        tokens_per_step: float,
    ):
        """Show the run on `devices`; an evaluation takes `evaluated_on` of the validation split."""
        self.say, self.passing, self.evaluated_on = say, passing, evaluated_on
        self.steps = config.train.steps
        self.tokens_per_step = tokens_per_step
        self.figures: dict[str, float] = {}
        self.utilization_per_speed = None  # unknown without a data sheet of the device
        data_sheet = chip(devices[0].device_kind)
        if data_sheet and config.encoder is None:
            peak = data_sheet.peak * len(devices)
            self.utilization_per_speed = flops.per_token(config.model) / peak
        self.start(0)

    def start(self, step: int) -> None:
        """Measure the speed from here, after `step`, so that time between steps does not count."""
        self.since, self.time = step, time.perf_counter()

    def tokens_per_second(self, step: int) -> float:
        """The speed since the last call, or the last `start`."""
        speed = (
            (step - self.since) * self.tokens_per_step / max(time.perf_counter() - self.time, 1e-9)
        )
        self.start(step)
        self.figures["speed"] = speed
        return speed

    def doing(self, step: int, what: str) -> None:
        """Show on a terminal `what` is being done, and the figures of the last step."""
        if self.passing:
            figures = self.line(step) if self.figures else ""
            self.passing(step, self.steps, f"{what}  {figures}".rstrip())

    def step(self, step: int, logged: bool, **figures: float) -> None:
        """Show the `figures` of a step, with val_loss if the model was evaluated."""
        self.figures |= figures
        evaluated = "val_loss" in figures
        if self.passing:
            self.passing(step, self.steps, self.line(step))
        if evaluated or (logged and not self.passing):
            extent = f" ({self.evaluated_on})" if self.evaluated_on else ""
            line = self.line(step, extent if evaluated else None)
            self.say(f"{STEP}{step:>{len(str(self.steps))}}/{self.steps}  {line}")

    def line(self, step: int, val: str | None = "") -> str:
        """The last figures; `val` follows the validation loss, which None leaves out."""
        figures = self.figures
        parts = [f"loss {figures['loss']:.4f}"]
        if val is not None and "val_loss" in figures:
            parts.append(f"val {figures['val_loss']:.4f}{val}")
        if val is not None and "val_exact_match" in figures:
            parts.append(f"exact {figures['val_exact_match']:.2%}")
        parts += [f"lr {figures['learning_rate']:.2e}", f"norm {figures['gradient_norm']:.2f}"]
        if speed := figures.get("speed"):
            parts.append(f"{speed:,.0f} tokens/s")
            if self.utilization_per_speed:
                parts.append(f"MFU {speed * self.utilization_per_speed:.0%}")
            parts.append(f"{clock((self.steps - step) * self.tokens_per_step / speed)} left")
        return "  ".join(parts)


def clock(seconds: float) -> str:
    """A duration as 1:05, or 3:20:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextlib.contextmanager
def watching() -> Iterator[tuple[Say, Passing | None]]:
    """Yield `say` and `passing`, which print on standard output; without a terminal, `passing` is
    None."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(highlight=False)
    if not console.is_terminal:
        yield ignore_closed_output(lambda text: print(text, flush=True)), None
        return
    bar = [BarColumn(bar_width=BAR)] if console.width >= WIDE else []
    columns = [
        TextColumn("step"),
        MofNCompleteColumn(),
        *bar,
        TextColumn("{task.description}", markup=False),
    ]
    shown = Progress(*columns, console=console, transient=True)
    task = shown.add_task("", total=None)

    def passing(step: int, steps: int, text: str) -> None:
        taken = len(f"{STEP}{steps}/{steps} ") + (BAR + 1 if bar else 0)
        text = shorten(text, console.width - taken)
        shown.update(task, completed=step, total=steps, description=text)
        shown.start()

    def say(text: str) -> None:
        text = shorten(text, console.width) if text.startswith(STEP) else text
        console.print(text, markup=False, soft_wrap=True)

    try:
        yield ignore_closed_output(say), passing
    finally:
        with contextlib.suppress(OSError):  # the terminal was closed
            shown.stop()


def shorten(text: str, width: int) -> str:
    """`text`, a line of figures, shortened to `width` by leaving out the least important ones."""
    for figure in SPARE:
        if len(text) <= width:
            break
        text = re.sub(figure, "", text)
    return text


def ignore_closed_output(say: Say) -> Say:
    """`say`, which no longer fails when the reader of the output exits, as head does, or the
    terminal closes."""

    def say_or_not(text: str) -> None:
        try:
            say(text)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return say_or_not

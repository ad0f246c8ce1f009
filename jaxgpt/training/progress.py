"""What a person sees of a run: one line that moves on a terminal, lines one after another elsewhere. Knows no array."""

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxgpt.config import Config
from jaxgpt.devices.chips import chip
from jaxgpt.model import flops

Say = Callable[[str], None]  # a line that stays
Passing = Callable[
    [int, int, str], None
]  # (step, of how many, text): a line that the next one replaces

STEP = "step "  # how a line of figures begins
BAR, WIDE = 24, 120  # columns of the bar, and of a terminal that has room for it
SPARE = (  # figures in the order in which a narrow terminal loses them
    r"  norm \S+",
    r"  lr \S+",
    r"  MFU \S+",
    r"  \S+ tokens/s",
    r"  \S+ left",
    r" \([^)]*\)",
    r"  val \S+",
)


class Progress:
    """Knows when each step came, and what was last known of each figure."""

    def __init__(
        self,
        config: Config,
        devices: Sequence[Any],
        say: Say,
        passing: Passing | None = None,
        evaluated_on: str = "",
    ):
        """`evaluated_on` says how much of the validation split an evaluation takes."""
        self.say, self.passing, self.evaluated_on = say, passing, evaluated_on
        self.steps = config.train.steps
        self.tokens_per_step = config.train.batch_size * config.model.context_length
        known = chip(devices[0].device_kind)
        self.share_per_speed = (
            flops.per_token(config.model) / (known.peak * len(devices)) if known else None
        )
        self.known: dict[str, Any] = {}
        self.start(0)

    def start(self, step: int) -> None:
        """Time is counted from here: what came before was no step."""
        self.since, self.time = step, time.perf_counter()

    def tokens_per_second(self, step: int) -> float:
        """Since the last call, or the start."""
        speed = (
            (step - self.since) * self.tokens_per_step / max(time.perf_counter() - self.time, 1e-9)
        )
        self.start(step)
        self.known["speed"] = speed
        return speed

    def doing(self, step: int, what: str) -> None:
        """Show on a terminal what takes time now, before the figures of the last step."""
        if self.passing:
            figures = self.line(step) if self.known else ""
            self.passing(step, self.steps, f"{what}  {figures}".rstrip())

    def step(self, step: int, logged: bool, **figures: float) -> None:
        """Of `figures`, val_loss is there where the model was evaluated."""
        self.known |= figures
        evaluated = "val_loss" in figures
        if self.passing:
            self.passing(step, self.steps, self.line(step))
        if evaluated or (logged and not self.passing):
            extent = f" ({self.evaluated_on})" if self.evaluated_on else ""
            line = self.line(step, extent if evaluated else None)
            self.say(f"{STEP}{step:>{len(str(self.steps))}}/{self.steps}  {line}")

    def line(self, step: int, val: str | None = "") -> str:
        """The known figures; `val` follows the validation loss, which None leaves out."""
        known = self.known
        parts = [f"loss {known['loss']:.4f}"]
        if val is not None and "val_loss" in known:
            parts += [f"val {known['val_loss']:.4f}{val}"]
        parts += [f"lr {known['learning_rate']:.2e}", f"norm {known['gradient_norm']:.2f}"]
        if speed := known.get("speed"):
            parts += [f"{speed:,.0f} tokens/s"]
            parts += [f"MFU {speed * self.share_per_speed:.0%}"] if self.share_per_speed else []
            parts += [f"{clock((self.steps - step) * self.tokens_per_step / speed)} left"]
        return "  ".join(parts)


def clock(seconds: float) -> str:
    """1:05, or 3:20:05"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextlib.contextmanager
def watching() -> Iterator[tuple[Say, Passing | None]]:
    """How to show lines where standard output goes."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(highlight=False)
    if not console.is_terminal:
        yield unbroken(lambda text: print(text, flush=True)), None
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
        text = fitted(text, console.width - taken)
        shown.update(task, completed=step, total=steps, description=text)
        shown.start()

    def say(text: str) -> None:
        text = fitted(text, console.width) if text.startswith(STEP) else text
        console.print(text, markup=False, soft_wrap=True)

    try:
        yield unbroken(say), passing
    finally:
        shown.stop()


def fitted(text: str, width: int) -> str:
    """A line of figures without the least important of them, as far as it is wider than `width`."""
    for figure in SPARE:
        if len(text) <= width:
            break
        text = re.sub(figure, "", text)
    return text


def unbroken(say: Say) -> Say:
    """Whoever listened may be gone, as head is after its lines; the run goes on."""

    def still(text: str) -> None:
        try:
            say(text)
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115

    return still

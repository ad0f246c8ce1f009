"""Sends metrics to TensorBoard and Weights & Biases, if the settings enable them."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxgpt.config import Config
from jaxgpt.optional import need

# Called with each line of metrics.
Track = Callable[[Mapping[str, Any]], None]


@contextlib.contextmanager
def trackers(config: Config, run: Path, since: int) -> Iterator[list[Track]]:
    """The trackers of `config`, open until the end of the block.

    `since` is the step from which the run resumes; metrics of later steps are discarded.
    """
    with contextlib.ExitStack() as stack:
        opened: list[Track] = []
        if config.run.tensorboard:
            opened.append(stack.enter_context(_tensorboard(run / "tensorboard", since)))
        if config.run.wandb:
            opened.append(stack.enter_context(_wandb(config, run)))
        yield opened


@contextlib.contextmanager
def _tensorboard(folder: Path, since: int) -> Iterator[Track]:
    """A tracker that writes to `folder` and discards metrics of earlier runs after the step
    `since`."""
    library = need("tensorboardX", "run.tensorboard", "leave the setting out")
    with library.SummaryWriter(
        str(folder), purge_step=since + 1, filename_suffix=f".{since}"
    ) as writer:

        def track(line: Mapping[str, Any]) -> None:
            for name, value in numbers(line).items():
                writer.add_scalar(name, value, line["step"])
            writer.flush()

        yield track


@contextlib.contextmanager
def _wandb(config: Config, run: Path) -> Iterator[Track]:
    """A tracker with the directory's name as its run id, so that a resumed run continues its own
    page."""
    library = need("wandb", "run.wandb", "leave the setting out")
    options = {
        "project": config.run.wandb,
        "id": run.resolve().name,
        "resume": "allow",
        "dir": str(run),
    }
    with library.init(**options, config=dataclasses.asdict(config)) as session:
        yield lambda line: session.log(numbers(line), line["step"])


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in a `line` of metrics, without its step."""
    return {
        name: value
        for name, value in line.items()
        if name != "step" and isinstance(value, int | float)
    }

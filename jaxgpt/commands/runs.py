"""jaxgpt runs: the runs in a directory."""

from pathlib import Path
from typing import Annotated

import tyro

from jaxgpt.commands.shell import console
from jaxgpt.system.stages import working

Place = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="[DIR]")]
COLUMNS = ("run", "config", "model", "step", "loss", "best val", "size", "state")


def runs(directory: Place = Path("runs"), /) -> None:
    """List the runs in a directory: model, steps, losses, size and state.

    Args:
        directory: The directory to search, at any depth.
    """
    from rich.table import Table
    from rich.text import Text

    from jaxgpt.storage import run_directory

    with working(f"checking the files in {directory}"):
        summaries = [run_directory.summary(run) for run in run_directory.find(directory)]
    if not summaries:
        print(f"There is no run in {directory}.")
        return
    table = Table(*COLUMNS, box=None, pad_edge=False)
    for run in summaries:
        losses = ["-" if loss is None else f"{loss:.4f}" for loss in (run.loss, run.val_loss)]
        steps, size = f"{run.step}/{run.steps}", f"{run.size / 1e6:,.1f} MB"
        row = (str(run.path), run.origin, run.model, steps, *losses, size, run.state)
        table.add_row(*map(Text, row))
    console().print(table)

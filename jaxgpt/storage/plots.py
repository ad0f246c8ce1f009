"""Plots of losses and attention; the only module that imports matplotlib, which is optional."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.errors import require
from jaxgpt.file_names import PICTURE
from jaxgpt.optional import installed, need
from jaxgpt.system import atomic_files

LABEL = 0.11  # inches that the name of a token takes at a legible size
LARGEST = 24.0  # the most inches of a figure, unless a head would get fewer than 4
INSTALLED = installed("matplotlib")


def draw_losses(metrics: Sequence[Mapping[str, Any]], run: Path, evaluated_on: str = "") -> None:
    """Write loss.png; `evaluated_on`, for the legend, is the part of the split that was used."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    validation = f"validation ({evaluated_on})" if evaluated_on else "validation"
    for key, name, style in (("loss", "training", "-"), ("val_loss", validation, "o-")):
        points = [(line["step"], line[key]) for line in metrics if line.get(key) is not None]
        if points:
            style = "o" if len(points) == 1 else style  # a line through a single point is invisible
            axes.plot(*zip(*points, strict=True), style, label=name, markersize=3.5, linewidth=1)
    evaluations = [line for line in metrics if line.get("val_loss") is not None]
    best = min(evaluations, key=lambda line: line["val_loss"], default=None)
    if best:
        note = f"best: {best['val_loss']:.4f} at step {best['step']}"
        axes.axhline(best["val_loss"], color="gray", linewidth=0.7, linestyle=":", label=note)
    title = run.resolve().name.replace("$", r"\$")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    axes.set(xlabel="step", ylabel="loss (nats per token)", title=title)
    losses = sorted(line["loss"] for line in metrics if line.get("loss") is not None)
    # On a linear axis, the high losses of the first steps would compress all others.
    if losses and losses[-1] > 2 * losses[len(losses) // 2]:
        _logarithmic(axes)
    axes.grid(alpha=0.3, which="both")
    if axes.lines:
        axes.legend()
    with atomic_files.replaced_file(run / PICTURE) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _logarithmic(axes: Any) -> None:
    """Make the loss axis logarithmic, labelled with plain numbers even within a single decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    numbers = (1, 1.5, *range(2, 10)) if high < 10 * low else (1, 2, 5)
    axes.yaxis.set_major_locator(LogLocator(subs=numbers, numticks=30))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def require_format(file: Path) -> None:
    """Raise UserError unless matplotlib is installed and writes files like `file`."""
    need("matplotlib", f"Drawing {file}", "leave --out out")
    from matplotlib.figure import Figure

    formats = Figure().canvas.get_supported_filetypes()
    require(
        file.suffix[1:].lower() in formats,
        f"{file} does not end like a picture: .{', .'.join(sorted(formats))}.",
    )


def draw_attention(weights_lnts: np.ndarray, names: Sequence[str], file: Path) -> None:
    """Write a figure with a map for each head and a row of maps for each layer.

    If not all `names` fit, only every n-th token is labelled.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    layers, heads, length, _ = weights_lnts.shape
    largest = max(4.0, LARGEST / max(layers, heads))
    side = max(1.4, min(0.16 * length, 4.0), min(LABEL * length, largest))
    every = math.ceil(LABEL * length / side)
    size = min(8.0, 60 * side / length * every)
    figure = Figure(figsize=(side * heads + 0.6, side * layers + 0.4), layout="constrained")
    axes = figure.subplots(layers, heads, squeeze=False)
    shown = range(0, length, every)
    labels = [names[i] for i in shown]
    for layer, head in np.ndindex(layers, heads):
        here: Any = axes[layer, head]
        # The square root makes small weights visible as well.
        norm = PowerNorm(0.5, vmin=0, vmax=1)
        here.imshow(weights_lnts[layer, head], norm=norm, cmap="magma")
        here.set_title(f"layer {layer}, head {head}", fontsize=8)
        below, left = labels if layer == layers - 1 else [], labels if head == 0 else []
        here.set_xticks(shown, below, fontsize=size, rotation=90, parse_math=False)
        here.set_yticks(shown, left, fontsize=size, parse_math=False)
        here.tick_params(length=0)
    named = f"; one token in {every} is named" if every > 1 else ""
    figure.suptitle(f"rows look at columns; the brighter, the more{named}", fontsize=8)
    with atomic_files.replaced_file(file) as partial:
        figure.savefig(partial, format=file.suffix[1:].lower(), dpi=130)


def draw_alignment(
    weights_nts: np.ndarray, written: Sequence[str], source: Sequence[str], file: Path
) -> None:
    """Write a figure of the attention of each `written` token to those of the `source`.

    The first map is the mean of all heads, and each other map is one head.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    maps = [("mean of all heads", weights_nts.mean(axis=0))]
    maps += [(f"head {head}", weights) for head, weights in enumerate(weights_nts)]
    columns = math.ceil(len(maps) ** 0.5)
    rows = math.ceil(len(maps) / columns)
    cell = max(0.06, min(2 * LABEL, LARGEST / (columns * max(len(written), len(source)))))
    width, height = (max(1.6, cell * len(names)) for names in (source, written))
    figure = Figure(
        figsize=((width + 0.9) * columns, (height + 0.9) * rows + 0.3), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    every = math.ceil(LABEL / cell)
    below, left = (range(0, len(names), every) for names in (source, written))
    for here, (title, weights) in zip(axes.flat, maps, strict=False):
        here.imshow(weights, norm=PowerNorm(0.5, vmin=0, vmax=1), cmap="magma", aspect="auto")
        here.set_title(title, fontsize=8)
        here.set_xticks(
            below, [source[i] for i in below], fontsize=7, rotation=90, parse_math=False
        )
        here.set_yticks(left, [written[i] for i in left], fontsize=7, parse_math=False)
        here.tick_params(length=0)
    for here in axes.flat[len(maps) :]:
        here.set_axis_off()
    figure.suptitle("rows: what is written; columns: where it looks in the source", fontsize=8)
    with atomic_files.replaced_file(file) as partial:
        figure.savefig(partial, format=file.suffix[1:].lower(), dpi=130)

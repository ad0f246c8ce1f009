"""A run's losses as a picture. The only room that knows matplotlib, which need not be there."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt import disk
from jaxgpt.config import require

FILE = "loss.png"
INSTALLED = importlib.util.find_spec("matplotlib") is not None


def draw_losses(metrics: Sequence[Mapping[str, Any]], run: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for key, name, style in (("loss", "training", "-"), ("val_loss", "validation", "o-")):
        points = [(line["step"], line[key]) for line in metrics if line.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=name, markersize=3.5, linewidth=1)
    best = min(
        (line for line in metrics if line.get("val_loss") is not None), key=lambda line: line["val_loss"], default=None
    )
    if best:
        note = f"best: {best['val_loss']:.4f} at step {best['step']}"
        axes.axhline(best["val_loss"], color="gray", linewidth=0.7, linestyle=":", label=note)
    axes.set(xlabel="step", ylabel="loss (nats per token)", title=run.resolve().name.replace("$", r"\$"))
    losses = sorted(line["loss"] for line in metrics if line.get("loss") is not None)
    if losses and losses[-1] > 2 * losses[len(losses) // 2]:  # the first steps would leave no room for the rest
        axes.set_yscale("log")
    axes.grid(alpha=0.3, which="both")
    if axes.lines:
        axes.legend()
    with disk.replaced_file(run / FILE) as partial:
        figure.savefig(partial, format="png", dpi=110)


def require_format(file: Path) -> None:
    require(INSTALLED, f'To draw {file} takes matplotlib: pip install "jaxgpt[plot]", or leave --out out.')
    from matplotlib.figure import Figure

    known = Figure().canvas.get_supported_filetypes()
    require(file.suffix[1:].lower() in known, f"{file} does not end like a picture: .{', .'.join(sorted(known))}.")


def draw_attention(weights_lnts: np.ndarray, names: Sequence[str], file: Path) -> None:
    """A map for each head, a row of them for each layer."""
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    layers, heads, length, _ = weights_lnts.shape
    side = max(1.4, min(4.0, 0.16 * length))
    figure = Figure(figsize=(side * heads + 0.6, side * layers + 0.4), layout="constrained")
    axes = figure.subplots(layers, heads, squeeze=False)
    size = min(8.0, 60 * side / length)
    for layer, head in np.ndindex(layers, heads):
        here: Any = axes[layer, head]
        here.imshow(weights_lnts[layer, head], norm=PowerNorm(0.5, vmin=0, vmax=1), cmap="magma")  # small shares show
        here.set_title(f"layer {layer}, head {head}", fontsize=8)
        here.set_xticks(
            range(length), names if layer == layers - 1 else [], fontsize=size, rotation=90, parse_math=False
        )
        here.set_yticks(range(length), names if head == 0 else [], fontsize=size, parse_math=False)
        here.tick_params(length=0)
    figure.suptitle("rows look at columns; the brighter, the more", fontsize=8)
    with disk.replaced_file(file) as partial:
        figure.savefig(partial, format=file.suffix[1:].lower(), dpi=130)

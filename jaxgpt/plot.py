"""A run's losses as a picture. The only room that knows matplotlib, which need not be there."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgpt import disk

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
    best = min((line for line in metrics if "val_loss" in line), key=lambda line: line["val_loss"], default=None)
    if best:
        note = f"best: {best['val_loss']:.4f} at step {best['step']}"
        axes.axhline(best["val_loss"], color="gray", linewidth=0.7, linestyle=":", label=note)
    axes.set(xlabel="step", ylabel="loss (nats per token)", title=run.name)
    losses = sorted(line["loss"] for line in metrics if line.get("loss") is not None)
    if losses and losses[-1] > 2 * losses[len(losses) // 2]:  # the first steps would leave no room for the rest
        axes.set_yscale("log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    with disk.replaced_file(run / FILE) as partial:
        figure.savefig(partial, format="png", dpi=110)

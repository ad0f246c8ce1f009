"""Draws the losses of runs: their mean where several differ only in the seed.

python -m tests.bench.curve OUT.png RUN [RUN ...]
"""

import json
import sys
from pathlib import Path

import matplotlib
import numpy as np


def main() -> None:
    out, *runs = sys.argv[1:]
    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [[json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()] for run in runs]
    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    for key, name, style in (("loss", "training", "-"), ("val_loss", "validation", "o-")):
        steps = [line["step"] for line in lines[0] if key in line]
        losses = np.array([[line[key] for line in run if key in line] for run in lines])
        axes.plot(steps, losses.mean(axis=0), style, label=f"{name}, mean of {len(runs)}", markersize=4, linewidth=1)
    axes.set(xlabel="step", ylabel="loss (nats per character)", ylim=(1.5, 3.2))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()

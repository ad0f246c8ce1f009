"""Seconds until the first token of eight prompts of 500 tokens, GPT-2 with 124 M weights, and what they have in common.

python -m tests.bench.prompts [ROUNDS]
"""

import statistics
import time

import numpy as np

import jaxgpt
from jaxgpt.devices.cpu import make_devices
from tests.bench import rounds

MODEL = jaxgpt.ModelConfig(50257, 1024, 768, 12, 12, dropout=0.0)
ROWS, LENGTH, COMMON = 8, 500, 480


def prompts() -> dict[str, list[list[int]]]:
    """The prompts, by what they have in common."""
    draw = np.random.default_rng(0).integers
    apart = draw(0, MODEL.vocab_size, (ROWS, LENGTH))
    beginning = apart.copy()
    beginning[:, :COMMON] = apart[0, :COMMON]
    return {
        "nothing": apart.tolist(),
        f"{COMMON} tokens": beginning.tolist(),
        "all: samples of one prompt": [apart[0].tolist()] * ROWS,
    }


def main() -> None:
    count = rounds(__doc__, 3)
    make_devices()
    model, cases = jaxgpt.GPT(MODEL), prompts()
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(count + 1):  # the first compiles
        for name, rows in cases.items():
            start = time.perf_counter()
            next(iter(jaxgpt.generate(model, rows, 1)))
            if turn:
                times[name].append(time.perf_counter() - start)
    print("| in common | seconds |\n|---|---|")
    for name, each in times.items():
        print(f"| {name} | {statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f}) |")


if __name__ == "__main__":
    main()

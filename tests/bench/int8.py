"""Generation with kernels in int8, against the same model in float32: its speed, and the loss of a text.

    python -m tests.bench.int8 [ROUNDS] [--model DIR --text FILE]

With a trained decoder DIR, also its mean loss over the last tenth of the text FILE, in windows of its context.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

import jaxgpt
from jaxgpt.devices.cpu import make_devices
from jaxgpt.model import GPT
from tests.bench.table import GPT2
from tests.bench.training import CONFIG

RACES = {  # the model, rows, tokens of the prompt, new tokens
    "GPT-2 with 124 M weights, one text": (GPT2, 1, 64, 64),
    "the same, 8 texts": (GPT2, 8, 64, 64),
    "the lyric generator, one text": (CONFIG.model, 1, 1, 127),
    "the same, 32 texts": (CONFIG.model, 32, 1, 127),
}


def seconds(model: GPT, rows: int, prompt: int, new: int) -> float:
    """How long `rows` texts take."""
    start = time.perf_counter()
    list(jaxgpt.generate(model, [[0] * prompt] * rows, new))
    return time.perf_counter() - start


def loss(model: GPT, ids: np.ndarray) -> float:
    """The mean loss of `ids` in windows of the context."""
    length = model.config.context_length + 1
    windows = ids[: len(ids) // length * length].reshape(-1, length)
    parts = [jaxgpt.score(model, part[:, :-1]) for part in np.array_split(windows, 20)]
    return -float(np.concatenate(parts).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rounds", nargs="?", type=int, default=5, metavar="ROUNDS")
    parser.add_argument("--model", type=Path, metavar="DIR")
    parser.add_argument("--text", type=Path, metavar="FILE")
    given = parser.parse_args()
    make_devices()
    print("| generation | speed of int8, relative |\n|---|---|")
    for name, (config, *sizes) in RACES.items():
        stored = jaxgpt.GPT(config)
        models = stored, jaxgpt.to_int8(stored)
        for model in models:
            seconds(model, *sizes)
        times = [[seconds(model, *sizes) for model in models] for _ in range(given.rounds)]
        ratios = [a / b for a, b in times]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"| {name} | {statistics.median(ratios):.2f} ({spread}) |", flush=True)
    if given.model:
        model, tokenizer = jaxgpt.load(given.model, jaxgpt.GPT), jaxgpt.load_tokenizer(given.model)
        text = given.text.read_text()
        ids = np.asarray(tokenizer.encode(text[len(text) * 9 // 10 :]))
        for name, one in (("float32", model), ("int8", jaxgpt.to_int8(model))):
            print(f"loss in {name}: {loss(one, ids):.4f}")


if __name__ == "__main__":
    main()

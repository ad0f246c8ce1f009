"""Generation speed at the sizes of the lyric generator: ours and the torch reference's own `generate`.

    python -m tests.bench.generation [ROUNDS]

127 new tokens: after one, after a full window, and after one in each of 32 texts (the reference writes one text at a
time, so a batched loop around its model takes its place). Rounds alternate, so that a machine that slows down slows
both; medians of the ratios are printed. There is a device for each core, as `jaxgpt sample` has it.
"""

import statistics
import time
from collections.abc import Callable

import torch

import jaxgpt
from convert.reference import GPT as TorchGPT
from convert.reference import generate as torch_generate
from jaxgpt.devices.cpu import make_devices
from tests.bench import rounds

SIZES = {
    "vocab_size": 104,
    "context_length": 128,
    "model_dim": 252,
    "num_blocks": 6,
    "num_heads": 6,
}
NAMES = [chr(256 + i) for i in range(104)]
FULL = [i % 104 for i in range(128)]


def contestants() -> dict[str, tuple[int, Callable[[], object], Callable[[], object]]]:
    """By what is measured: how many tokens, ours, theirs."""
    make_devices()
    ours = jaxgpt.GPT(jaxgpt.ModelConfig(**SIZES))
    theirs = TorchGPT(**SIZES).eval()

    def write(prompt: list, tokens: int) -> Callable[[], object]:
        return lambda: list(jaxgpt.generate(ours, prompt, tokens))

    def torch_writes(prompt: list, tokens: int) -> Callable[[], object]:
        return lambda: torch_generate(theirs, tokens, torch.tensor([prompt]), 128, NAMES)

    @torch.no_grad()
    def batched() -> None:
        context = torch.zeros(32, 1, dtype=torch.int64)
        for _ in range(127):
            chosen = torch.multinomial(theirs(context)[:, -1].softmax(dim=-1), 1)
            context = torch.cat([context, chosen], dim=1)

    return {
        "127 tokens, one text": (127, write([0], 127), torch_writes([0], 127)),
        "127 tokens past the window": (127, write(FULL, 127), torch_writes(FULL, 127)),
        "127 tokens, 32 texts, against the reference batched": (
            32 * 127,
            write([[0]] * 32, 127),
            batched,
        ),
    }


def main() -> None:
    count = rounds(__doc__)
    for name, (tokens, *racers) in contestants().items():
        for racer in racers:
            racer()
        speeds: list[list[float]] = []
        for _ in range(count):
            speeds.append([])
            for racer in racers:
                start = time.perf_counter()
                racer()
                speeds[-1].append(tokens / (time.perf_counter() - start))
        ratios = [a / b for a, b in speeds]
        medians = [statistics.median(column) for column in zip(*speeds, strict=True)]
        print(f"{name}: {medians[0]:,.0f} tokens/s against {medians[1]:,.0f}")
        print(
            f"  ratio: median {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}"
        )


if __name__ == "__main__":
    main()

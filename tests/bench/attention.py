"""Seconds of attention and its gradients on one core: blocks, tiles, and PyTorch's fused attention.

    python -m tests.bench.attention [ROUNDS]

6 heads of 64, one text, by its length. Rounds alternate; medians of the ratios are printed, and the memory beyond
arguments and results.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch

from jaxgpt.devices.cpu import keep_memory
from jaxgpt.model.attention_kernels import FORMS
from jaxgpt.model.spec import Scores
from tests.bench import rounds

HEADS, WIDTH = 6, 64
LENGTHS = (256, 512, 1024, 2048, 4096)


def ours(form: str, parts: list[np.ndarray]) -> tuple[Callable[[], object], float]:
    """Outputs and gradients by `form`, and the megabytes of its temporaries."""

    def both(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
        out, pull = jax.vjp(lambda *qkv: FORMS[form](*qkv, WIDTH**-0.5, Scores()), q, k, v)
        return out, pull(out)

    q, k, v = parts
    program = jax.jit(both).lower(q[..., None, :], k, v).compile()
    arrays = jax.device_put((q[..., None, :], k, v))
    size = program.memory_analysis().temp_size_in_bytes  # type: ignore[union-attr]
    return lambda: jax.block_until_ready(program(*arrays)), size / 1e6


def in_torch(parts: list[np.ndarray]) -> Callable[[], object]:
    tensors = [torch.tensor(part).transpose(1, 2).contiguous().requires_grad_() for part in parts]

    def run() -> None:
        out = torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=True)
        out.backward(out.detach())

    return run


def main() -> None:
    count = rounds(__doc__, 9)
    os.environ["NPROC"] = "1"
    jax.config.update("jax_num_cpu_devices", 1)
    torch.set_num_threads(1)
    keep_memory()
    rng = np.random.default_rng(0)
    print("| length | tiles / blocks | tiles / torch | tiles | blocks |\n|---|---|---|---|---|")
    for length in LENGTHS:
        shape = 1, length, HEADS, WIDTH
        parts = [rng.normal(size=shape).astype("float32") for _ in range(3)]
        tiled, blocks = ours("tiled", parts), ours("chunked", parts)
        racers = (tiled[0], blocks[0], in_torch(parts))
        seconds: list[list[float]] = [[] for _ in racers]
        for turn in range(count + 1):
            for each, run in zip(seconds, racers, strict=True):
                start = time.perf_counter()
                run()
                if turn:
                    each.append(time.perf_counter() - start)
        speeds = [
            statistics.median(b / a for a, b in zip(seconds[0], other, strict=True))
            for other in seconds[1:]
        ]
        print(
            f"| {length} | {speeds[0]:.2f} | {speeds[1]:.2f} | {tiled[1]:.0f} MB | {blocks[1]:.0f} MB |"
        )


if __name__ == "__main__":
    main()

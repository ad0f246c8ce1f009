"""Training speed at the sizes of the lyric generator: ours, the torch reference in eager mode, our step without loop.

    python -m tests.bench.training [ROUNDS]

Rounds alternate, so that a machine that slows down slows all of them; medians of the ratios are printed.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import torch

from convert.reference import GPT as TorchGPT
from jaxgpt.config import Config, DataConfig, MeshConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from jaxgpt.data import Dataset
from jaxgpt.sharding import replicated, use_devices
from jaxgpt.step import State, init_state
from jaxgpt.train import Loop

STEPS = 5  # in a round
CONFIG = Config(
    DataConfig("-"),
    RunConfig("-"),
    ModelConfig(104, 128, 252, 6, 6, dropout=0.2),
    OptimConfig(warmup_steps=0, schedule="constant", decay="all", clip_norm=0),
    TrainConfig(steps=STEPS, batch_size=32, log_every=1, eval_every=STEPS, scan_unroll=6),
)
TOKENS_PER_STEP = CONFIG.train.batch_size * CONFIG.model.context_length


class QuietLoop(Loop):
    """The loop alone: evaluation and checkpoints are not steps."""

    def validate(self, state: State) -> float:
        jax.block_until_ready(state)
        return 0.0

    def save(self, state: State, step: int, val_loss: float | None) -> None:
        self.state = state._replace(step=0 * state.step)


def contestants() -> dict[str, Callable[[], object]]:
    """Functions that train for STEPS steps, all on the same batches."""
    tokens = np.random.default_rng(0).integers(0, CONFIG.model.vocab_size, 100_000, dtype=np.uint8)
    dataset = Dataset(Path("-"), CONFIG.model.vocab_size, tokens, tokens, 0, 0, "")
    loop = QuietLoop(CONFIG, dataset, Path(tempfile.mkdtemp()), lambda line: None)
    loop.state = init_state(CONFIG)
    bare_state = [jax.device_put(init_state(CONFIG), replicated(loop.mesh))]
    batches = [loop.batch(step) for step in range(STEPS)]

    def bare() -> None:
        state = bare_state[0]
        for ids in batches:
            state, metrics = loop.step(state, ids)
            jax.block_until_ready(metrics)
        bare_state[0] = jax.block_until_ready(state)

    torch.manual_seed(0)
    module = TorchGPT(104, 128, 252, 6, 6).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=CONFIG.optim.learning_rate)
    torch_batches = [torch.from_numpy(np.asarray(ids)[0].astype(np.int64)) for ids in batches]

    def reference() -> None:
        for ids in torch_batches:
            optimizer.zero_grad()
            logits = module(ids[:, :-1])
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
            optimizer.step()

    return {"jaxgpt": lambda: loop.run(loop.state), "bare step": bare, "torch": reference}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    use_devices(MeshConfig())
    racers = contestants()
    for racer in racers.values():
        racer()
    speeds: dict[str, list[float]] = {name: [] for name in racers}
    for i in range(rounds):
        for name, racer in racers.items():
            start = time.perf_counter()
            racer()
            speeds[name].append(STEPS * TOKENS_PER_STEP / (time.perf_counter() - start))
        print(f"round {i + 1}: " + ", ".join(f"{name} {speed[-1]:,.0f} tokens/s" for name, speed in speeds.items()))
    for name, other in (("jaxgpt", "torch"), ("jaxgpt", "bare step")):
        ratios = [a / b for a, b in zip(speeds[name], speeds[other], strict=True)]
        print(f"{name} / {other}: median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()

"""Training speed at the sizes of the lyric generator: ours, our step without the loop, the torch reference in eager
mode, and the same with torch's faster building blocks.

    python -m tests.bench.training [ROUNDS]

Rounds alternate, so that a machine that slows down slows all of them; medians of the ratios are printed. Each framework
has a process of its own, as its users have: what one does to memory and threads does not reach the other.
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path

import jax
import numpy as np
import torch

from convert.reference import GPT as TorchGPT
from jaxgpt.config import (
    ComputeConfig,
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from jaxgpt.data.batches import batch
from jaxgpt.data.tokens import Dataset
from jaxgpt.devices.cpu import use_devices
from jaxgpt.devices.sharding import replicated
from jaxgpt.training.job import Job
from jaxgpt.training.loop import Loop
from jaxgpt.training.step import State, init_state
from tests.bench import rounds

STEPS = 5  # in a round
CONFIG = Config(
    DataConfig("-"),
    RunConfig("-"),
    model=ModelConfig(104, 128, 252, 6, 6, dropout=0.2),
    optim=OptimConfig(warmup_steps=0, schedule="constant", decay="all", clip_norm=0),
    train=TrainConfig(steps=STEPS, batch_size=32, log_every=1, eval_every=STEPS),
    compute=ComputeConfig(scan_unroll=6),
)
TOKENS_PER_STEP = CONFIG.train.batch_size * CONFIG.model.context_length
TOKENS = np.random.default_rng(0).integers(0, CONFIG.model.vocab_size, 100_000, dtype=np.uint16)
Racers = dict[str, Callable[[], object]]  # each trains for the same steps on the same batches


class QuietLoop(Loop):
    """The loop alone: evaluation and checkpoints are not steps."""

    def validate(self, state: State) -> dict[str, float]:
        jax.block_until_ready(state)
        return {"val_loss": 0.0}

    def save(self, state: State, step: int, val_loss: float | None) -> None:
        self.state = state._replace(step=0 * state.step)


def ours(config: Config = CONFIG) -> Racers:
    use_devices(MeshConfig())
    tokens = TOKENS % config.model.vocab_size
    dataset = Dataset(Path("-"), config.model.vocab_size, tokens, tokens, 0, "")
    loop = QuietLoop(Job(config, dataset, Path(tempfile.mkdtemp())), lambda line: None)
    loop.state = init_state(config)
    bare_state = [jax.device_put(init_state(config), replicated(loop.mesh))]
    batches = [loop.batch(step) for step in range(config.train.steps)]

    def bare() -> None:
        state = bare_state[0]
        for ids in batches:
            state, metrics = loop.step(state, ids)
            jax.block_until_ready(metrics)
        bare_state[0] = jax.block_until_ready(state)

    return {"jaxgpt": lambda: loop.run_steps(loop.state), "bare step": bare}


class FusedAttention(torch.nn.Module):
    """One product for queries, keys and values of all heads, and torch's own fused attention."""

    def __init__(self, model_dim: int, num_heads: int):
        super().__init__()
        self.qkv = torch.nn.Linear(model_dim, 3 * model_dim, bias=False)
        self.compute = torch.nn.Linear(model_dim, model_dim)
        self.dropout = torch.nn.Dropout(0.2)
        self.num_heads = num_heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
        return self.dropout(self.compute(mixed.transpose(1, 2).flatten(2)))


def theirs() -> Racers:
    torch.manual_seed(0)
    plain, fast = TorchGPT(104, 128, 252, 6, 6), TorchGPT(104, 128, 252, 6, 6)
    for block in fast.transformer_blocks:
        block.mhsa = FusedAttention(252, 6)
    return {"torch": in_torch(plain, fused=False), "fast torch": in_torch(fast, fused=True)}


def in_torch(
    module: torch.nn.Module,
    fused: bool,
    config: Config = CONFIG,
    called: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Callable[[], object]:
    """Training of `module` as `config` says; where it is compiled, that is what is `called`."""
    module.train()
    called = module if called is None else called
    optimizer = torch.optim.AdamW(module.parameters(), lr=config.optim.learning_rate, fused=fused)
    sizes = {"batch_size": config.train.batch_size, "context_length": config.model.context_length}
    tokens = TOKENS % config.model.vocab_size
    made = [
        batch(tokens, seed=config.train.seed, step=step, **sizes)
        for step in range(config.train.steps)
    ]
    batches = [torch.from_numpy(ids.astype(np.int64)) for ids in made]

    def train() -> None:
        for ids in batches:
            optimizer.zero_grad()
            logits = called(ids[:, :-1])
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
            optimizer.step()

    return train


def stable(make: Callable[[], Racers], line: Connection) -> None:
    """A process with racers: each name that comes in is run, and its seconds go out."""
    racers = make()
    for racer in racers.values():
        racer()
    line.send(list(racers))
    while name := line.recv():
        start = time.perf_counter()
        racers[name]()
        line.send(time.perf_counter() - start)


def speeds(
    makers: Iterable[Callable[[], Racers]], count: int, tokens: int = STEPS * TOKENS_PER_STEP
) -> dict[str, list[float]]:
    """The tokens/s of each racer in each of `count` rounds of `tokens`."""
    processes = multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    for make in makers:
        line, end = processes.Pipe()
        processes.Process(target=stable, args=(make, end), daemon=True).start()
        lines |= dict.fromkeys(line.recv(), line)
    figures: dict[str, list[float]] = {name: [] for name in lines}
    for _ in range(count):
        for name, line in lines.items():
            line.send(name)
            figures[name].append(tokens / line.recv())
    for line in lines.values():
        line.send("")
    return figures


def race(
    makers: Iterable[Callable[[], Racers]],
    pairs: list[tuple[str, str]],
    count: int,
    tokens: int = STEPS * TOKENS_PER_STEP,
) -> None:
    """Print the speeds of `count` rounds of `tokens`, and the ratios of each of `pairs`."""
    figures = speeds(makers, count, tokens)
    for i in range(count):
        print(
            f"round {i + 1}: "
            + ", ".join(f"{name} {each[i]:,.0f} tokens/s" for name, each in figures.items())
        )
    for name, other in pairs:
        ratios = [a / b for a, b in zip(figures[name], figures[other], strict=True)]
        print(
            f"{name} / {other}: median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}"
        )


def main() -> None:
    pairs = [("jaxgpt", other) for other in ("torch", "fast torch", "bare step")]
    race((ours, theirs), pairs, rounds(__doc__))


if __name__ == "__main__":
    main()

"""What saving costs: the loop with a checkpoint each 50 steps against the loop without, at the sizes of nanoGPT's CPU
recipe; and how many steps go on while one large checkpoint is written.

    python -m tests.bench.saving [ROUNDS]

Rounds alternate, so that a machine that slows down slows both; medians of the ratios are printed.
"""

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from jaxgpt.config import (
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from jaxgpt.data.tokens import Dataset
from jaxgpt.devices.cpu import use_devices
from jaxgpt.training.job import Job
from jaxgpt.training.loop import Loop
from jaxgpt.training.step import Metrics, State, init_state
from tests.bench import rounds

STEPS = 200
SMALL = Config(
    DataConfig("-"),
    RunConfig("-"),
    model=ModelConfig(65, 64, 128, 4, 4, dropout=0.0),
    optim=OptimConfig(warmup_steps=0),
    train=TrainConfig(steps=STEPS, batch_size=12, eval_every=STEPS, eval_batches=1),
)
LARGE = dataclasses.replace(
    SMALL,
    model=ModelConfig(50257, 16, 256, 1, 4, dropout=0.0),
    train=TrainConfig(steps=40, batch_size=4, eval_every=40, eval_batches=1, save_every=10),
)


class Timed(Loop):
    """Writes down when each step was known to be done, and when each save began and ended."""

    def process(self, step: int, metrics: Metrics, state: State | None = None) -> float | None:
        val_loss = super().process(step, metrics, state)
        self.steps.append(time.perf_counter())
        return val_loss

    def train(self, state: State) -> None:
        self.steps: list[float] = []
        self.saves: list[tuple[float, float]] = []
        start = self.checkpoints.worker.start

        def timed(job):
            def run():
                began = time.perf_counter()
                job()
                self.saves.append((began, time.perf_counter()))

            start(run)

        self.checkpoints.worker.start = timed  # type: ignore[method-assign]
        super().train(state)


def trained(config: Config) -> Timed:
    ids = np.random.default_rng(0).integers(0, config.model.vocab_size, 100_000).astype(np.uint16)
    dataset = Dataset(Path("-"), config.model.vocab_size, ids, ids[:2000], 0, "")
    with tempfile.TemporaryDirectory() as folder:
        loop = Timed(Job(config, dataset, Path(folder)), lambda line: None)
        loop.train(init_state(config))
    return loop


def main() -> None:
    count = rounds(__doc__)
    use_devices(MeshConfig())
    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    ratios = []
    for i in range(count + 1):
        seconds = {}
        for every in (0, 50):
            steps = trained(
                dataclasses.replace(SMALL, train=dataclasses.replace(SMALL.train, save_every=every))
            ).steps
            seconds[every] = steps[-1] - steps[1]
        if i:  # the first round compiles
            ratios.append(seconds[0] / seconds[50])
            print(
                f"round {i}: {STEPS} steps in {seconds[0]:.2f} s without saving, {seconds[50]:.2f} s with"
            )
    print(
        f"speed with saving / without: median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to "
        f"{max(ratios):.3f}"
    )
    loop = trained(LARGE)
    for began, ended in loop.saves:
        during = sum(began < at < ended for at in loop.steps)
        print(f"a save of 310 MB took {ended - began:.2f} s, in which {during} steps were done")


if __name__ == "__main__":
    main()

"""The settings of a section, at two sizes: that of the device, and a toy; and helpers of sections."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from jaxgpt.config import Config
from jaxgpt.settings import build_run, read_settings
from tests.helpers import ROOT

Item = TypeVar("Item")
LATE = "no time was left"
TEXT = "python-docs"  # comes with Python, so that nothing has to be fetched


@dataclass(frozen=True)
class Sizes:
    """How much of everything is measured."""

    kinds: int | None  # of models that are compared, the first ones; None is all
    lengths: tuple[tuple[int, int], ...]  # contexts and head widths at which forms are compared
    model: dict[str, Any]  # changes of the model of GPT-2
    rows: tuple[int, ...]  # sequences in a step; all settings are tried with the first
    timed: int  # steps
    train: dict[str, int]  # changes of the CPU recipe
    killed: dict[str, int]  # the same, for the run that is killed
    new: int  # tokens that are generated
    texts: tuple[int, ...]  # texts that are generated at once
    backend: str  # of torch.compile


FULL = Sizes(
    kinds=None,
    lengths=((1, 42), (129, 42), (700, 128), (1025, 64)),
    model={},
    rows=(8, 16, 32, 64),
    timed=20,
    train={"eval_batches": 0, "eval_every": 1000, "sample_tokens": 0},
    killed={
        "steps": 300,
        "save_every": 20,
        "eval_every": 300,
        "eval_batches": 2,
        "sample_tokens": 0,
    },
    new=256,
    texts=(1, 32),
    backend="inductor",
)
TOY = Sizes(
    kinds=2,
    lengths=((5, 8),),
    model={
        "vocab_size": 64,
        "context_length": 16,
        "model_dim": 16,
        "num_blocks": 2,
        "num_heads": 2,
    },
    rows=(2, 4),
    timed=2,
    train={"steps": 4, "batch_size": 2, "eval_batches": 2, "sample_tokens": 0},
    killed={
        "steps": 90,
        "batch_size": 2,
        "save_every": 15,
        "eval_every": 90,
        "eval_batches": 1,
        "sample_tokens": 0,
    },
    new=8,
    texts=(2,),
    backend="eager",
)


@dataclass(frozen=True)
class Settings:
    """The settings that a section gets."""

    platform: str  # of the device: cpu, gpu or tpu
    out: Path  # the folder of the page, in which a section may write
    text: str  # that the CPU recipe is trained on, as data.path takes it
    sizes: Sizes
    seconds: float  # after which nothing more should be started
    since: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.seconds - (time.monotonic() - self.since)

    def timely(self, items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
        """`items`, each with whether there is time for it, if it takes no longer than those before.

        An item takes as long as the body of the loop over them.
        """
        longest = 0.0
        for item in items:
            start = time.monotonic()
            yield item, self.left > longest
            longest = max(longest, time.monotonic() - start)


def gpt2(settings: Settings, rows: int, **compute: Any) -> Config:
    """The config of GPT-2 124M with `rows` sequences in a step and changes of its `[compute]`."""
    changes = {
        "model": settings.sizes.model,
        "train": {"batch_size": rows, "accumulate": 1},
        "compute": compute,
    }
    return build_run(read_settings(ROOT / "configs" / "gpt2_124m.toml", changes), "gpt2_124m")


def random_ids(config: Config) -> np.ndarray:
    """Random ids (1, B, T + 1) for a step of `config`."""
    shape = 1, config.train.batch_size, config.model.context_length + 1
    return np.random.default_rng(0).integers(config.model.vocab_size, size=shape, dtype=np.int32)


def seconds_each(
    run: Callable[[], Any], count: int, wait: Callable[[Any], Any] = jax.block_until_ready
) -> float:
    """The seconds that one of `count` calls of `run` takes; `wait` waits for what it returns.

    The first call, which may compile, and a second one are not counted.
    """
    for _ in range(2):
        wait(run())
    start = time.perf_counter()
    for _ in range(count):
        last = run()
    wait(last)
    return (time.perf_counter() - start) / count

"""The benchmarks of the table that `python -m tests.bench` prints."""

import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import jaxgpt
from jaxgpt.config import ComputeConfig, Config, ModelConfig
from jaxgpt.devices.cpu import keep_memory, make_devices
from jaxgpt.model import abstract_params
from jaxgpt.model.flops import of_program
from jaxgpt.training.step import init_state, make_step
from tests.bench import disk, modern, pairs
from tests.bench.torch_gpt import Gpt
from tests.bench.training import CONFIG, Racers, in_torch, ours, speeds

GPT2 = ModelConfig(50257, 128, 768, 12, 12, dropout=0.0)


def sized(model: ModelConfig, batch: int, steps: int) -> Config:
    return dataclasses.replace(
        CONFIG,
        model=model,
        train=dataclasses.replace(CONFIG.train, steps=steps, batch_size=batch, eval_every=steps),
        compute=ComputeConfig(scan_unroll=model.num_blocks),
    )


TRAINING = {
    "training at the lyric generator's size": CONFIG,
    "training at nanoGPT's CPU size": sized(ModelConfig(65, 64, 128, 4, 4, dropout=0.0), 12, 100),
    "training at length 1024": sized(ModelConfig(512, 1024, 384, 2, 6, dropout=0.0), 2, 5),
}
GENERATION = {  # the model, rows, tokens of the prompt, new tokens
    "generation, lyric generator, one text": (CONFIG.model, 1, 1, 127),
    "generation, lyric generator, 32 texts": (CONFIG.model, 32, 1, 127),
    "generation, GPT-2 with 124 M weights, one text": (GPT2, 1, 64, 64),
}


@dataclasses.dataclass
class Row:
    """One line of the table."""

    work: str
    figures: dict[str, list[float]]  # tokens/s in each round: ours, and of each mode of PyTorch
    note: str = ""

    def __str__(self) -> str:
        every = self.against(list(self.figures))
        single = self.against([name for name in self.figures if "bf16" not in name])
        ours = statistics.median(self.figures["jaxgpt"])
        return f"| {self.work} | {ours:,.0f} | {single} | {every} | {self.note} |"

    def against(self, names: list[str]) -> str:
        """The ratio of our speed to the fastest of the modes in `names`."""
        others = {name: self.figures[name] for name in names if name != "jaxgpt"}
        best = max(others, key=lambda name: statistics.median(others[name]))
        ratios = [a / b for a, b in zip(self.figures["jaxgpt"], others[best], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        return f"{statistics.median(ratios):.2f} ({spread}; {best})"


def row(
    work: str, figures: dict[str, list[float]], note: Callable[[float], str] = lambda _: ""
) -> Row:
    """The line of a race, with what `note` says of our speed."""
    return Row(work, figures, note(statistics.median(figures["jaxgpt"])))


def our_training(config: Config) -> Racers:
    return {"jaxgpt": ours(config)["jaxgpt"]}


def torch_training(config: Config, mode: str) -> Racers:
    """One mode of PyTorch, named by `mode`."""
    torch.manual_seed(0)
    if "memory" in mode:
        keep_memory()
    model: Any = Gpt(config.model)
    called = torch.compile(model) if "compiled" in mode else model
    if "bf16" in mode:
        called = torch.autocast("cpu", torch.bfloat16)(called.forward)
    return {mode: in_torch(model, fused=True, config=config, called=called)}


MODES = ("torch", "torch, memory kept", "torch, compiled", "torch, compiled, bf16")


def train(name: str, count: int, peak: float) -> Row:
    config = TRAINING[name]
    makers = [
        functools.partial(our_training, config),
        *(functools.partial(torch_training, config, mode) for mode in MODES),
    ]
    tokens = config.train.batch_size * config.model.context_length
    shapes = jax.eval_shape(lambda: init_state(config))
    ids = jax.ShapeDtypeStruct(
        (1, config.train.batch_size, config.model.context_length + 1), "int32"
    )
    flops = of_program(jax.make_jaxpr(make_step(config))(shapes, ids).jaxpr) / tokens
    figures = speeds(makers, count, config.train.steps * tokens)
    return row(name, figures, lambda speed: f"{speed * flops / peak:.0%} of the rate of products")


def our_generation(name: str) -> Racers:
    make_devices()
    config, rows, prompt, new = GENERATION[name]
    model = jaxgpt.GPT(config)
    return {"jaxgpt": lambda: list(jaxgpt.generate(model, [[0] * prompt] * rows, new))}


def torch_generation(name: str, mode: str) -> Racers:
    torch.manual_seed(0)
    config, rows, prompt, new = GENERATION[name]
    model = Gpt(config).eval()
    if "compiled" in mode:
        model.forward = torch.compile(model.forward, dynamic=True)  # type: ignore[method-assign]
    return {mode: lambda: model.write(rows, prompt, new)}


def generate(name: str, count: int, copied: float) -> Row:
    config, rows, _, new = GENERATION[name]
    makers = [
        functools.partial(our_generation, name),
        *(functools.partial(torch_generation, name, mode) for mode in MODES[::2]),
    ]
    size = sum(4 * leaf.size for leaf in jax.tree.leaves(abstract_params(config)))
    size -= 4 * config.vocab_size * config.model_dim  # of the embedding, a row is read
    figures = speeds(makers, count, rows * new)

    def note(speed: float) -> str:
        return f"reads {speed / rows * size / 1e9:.1f} GB/s of weights; a copy {copied / 1e9:.1f}"

    return row(name, figures, note)


def blocks(count: int) -> Row:
    makers = (modern.our_training, modern.torch_training)
    return row("training of the block of Llama", speeds(makers, count))


def pair(count: int) -> Row:
    makers = (pairs.ours, pairs.theirs)
    return row("training of an encoder-decoder", speeds(makers, count, pairs.TOKENS))


def on_disk(name: str, count: int) -> Row:
    amount, makers = disk.RACES[name]
    with tempfile.TemporaryDirectory() as folder:
        racers = [functools.partial(make, folder) for make in makers]
        return row(name, speeds(racers, count, amount))


def best(run: Callable[[], object], count: int = 5) -> float:
    """The least seconds that `run` took."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def peak() -> float:
    """The greatest rate of float32 products, in operations each second."""
    size = 2048
    a, b = (np.random.default_rng(0).normal(size=(size, size)).astype("float32") for _ in range(2))
    dot, x, y = jax.jit(jnp.dot), jnp.asarray(a), jnp.asarray(b)
    s, t = torch.tensor(a), torch.tensor(b)
    return 2 * size**3 / min(best(lambda: dot(x, y).block_until_ready()), best(lambda: s @ t))


def copied() -> float:
    """The bytes that a copy reads each second."""
    source = torch.ones(2**27)
    target = torch.empty_like(source)
    return 4 * source.numel() / best(lambda: target.copy_(source))


def races(count: int) -> dict[str, Callable[[], Row]]:
    """What makes each line of the table, in `count` rounds, by its name."""
    products, copy = peak(), copied()
    return {
        **{name: functools.partial(train, name, count, products) for name in TRAINING},
        "training of the block of Llama": functools.partial(blocks, count),
        "training of an encoder-decoder": functools.partial(pair, count),
        **{name: functools.partial(generate, name, count, copy) for name in GENERATION},
        **{name: functools.partial(on_disk, name, count) for name in disk.RACES},
    }

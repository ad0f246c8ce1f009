"""The loop: from a config and tokens to a run directory. Knows when things happen; how, the rooms below know.

DIR/config.json         every setting, resolved
DIR/metrics.jsonl       a line for each logged step
DIR/checkpoints/NAME/   model directories with all that is needed to go on; the best and the last are kept
DIR/data/               what was prepared for this run, where data.path named a text
"""

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxgpt import checkpoint, disk
from jaxgpt.config import Config, ModelConfig, UserError, require
from jaxgpt.data import ABOUT, Dataset, batch, open_dataset
from jaxgpt.evaluate import Evaluator, fit_vocabulary, require_same_tokenizer
from jaxgpt.prepare import prepare
from jaxgpt.settings import build
from jaxgpt.sharding import make_mesh, over_rows, replicated, use_all_cores
from jaxgpt.step import Metrics, State, init_state, make_step
from jaxgpt.tokenizer import load as load_tokenizer
from jaxgpt.tree import Tree

Say = Callable[[str], None]


def train(settings: Mapping[str, Any], where: str, say: Say = print) -> Path:
    """Run what `settings` (sections of plain values, from `where`) describe; returns the run's directory."""
    use_all_cores()
    started = checkpoint.ModelDirectory(init) if (init := settings.get("run", {}).get("init")) else None
    model = dict(settings.get("model", {}))
    if started:
        model = {**vars(started.config), **model}
    config: Config = build(Config, {**settings, "model": model}, where)
    if started:
        require_same_architecture(started.config, config.model, init)
    directory = Path(config.run.dir)
    require_unused(directory)
    dataset = find_data(config, directory)
    if started:
        require_same_tokenizer(started.path / "tokenizer.json", dataset.path / "tokenizer.json")
    config = dataclasses.replace(config, model=fit_vocabulary(config.model, dataset))
    loop = Loop(config, dataset, directory, say)
    state = init_state(config, checkpoint.to_device(started.params()) if started else None)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    origin = f"starting from {started.path}" if started else "starting from random weights"
    say(f"{parameters:,} parameters, {len(dataset.train):,} tokens to train on, {len(dataset.val):,} to validate")
    say(f"{origin}; compiling first, which takes a while")
    directory.mkdir(parents=True, exist_ok=True)
    disk.write_json(directory / "config.json", dataclasses.asdict(config))
    try:
        loop.run(state)
    except KeyboardInterrupt:
        say(f"Interrupted. {loop.last_good()}")
        raise
    say(f"Done. Its best checkpoint is {checkpoint.best_and_last(directory)[0]}. To go on: jaxgpt eval {directory}")
    return directory


def require_unused(directory: Path) -> None:
    """Data that an attempt prepared there before it failed are not in the way: they are prepared again."""
    own = directory / "data"
    if (own / ABOUT).exists() and list(directory.iterdir()) == [own]:
        shutil.rmtree(own)
    if (directory / "metrics.jsonl").exists():
        raise UserError(f"{directory} holds a run already: remove it, or choose another run.dir.")
    disk.require_vacant(directory)


def require_same_architecture(ours: ModelConfig, asked: ModelConfig, init: str) -> None:
    differing = [
        f"{name} is {value} in {init} and {getattr(asked, name)} in the config"
        for name, value in vars(ours).items()
        if name != "dropout" and value != getattr(asked, name)
    ]
    if differing:
        raise UserError(f"The model cannot start from {init}: {'; '.join(differing)}. Leave these settings out.")


def find_data(config: Config, directory: Path) -> Dataset:
    source = Path(config.data.path)
    if (source / ABOUT).exists():
        return open_dataset(source)
    return prepare([config.data.path], directory / "data", tokenizer=config.data.tokenizer)


class Loop:
    """Steps, and what happens between them."""

    def __init__(self, config: Config, dataset: Dataset, directory: Path, say: Say):
        """Whatever is wrong with the config is found here, before anything is written."""
        self.config, self.dataset, self.directory, self.say = config, dataset, directory, say
        self.rows = config.train.batch_size // config.train.accumulate
        self.mesh = make_mesh(config.mesh, self.rows)
        whole, parts = replicated(self.mesh), over_rows(self.mesh, axis=1)
        self.step = jax.jit(
            make_step(config), donate_argnums=0, in_shardings=(whole, parts), out_shardings=(whole, whole)
        )
        self.evaluator = Evaluator(config.model, config.train.compute_dtype, self.mesh, self.rows)
        self.batch(0)
        tokenizer = dataset.path / "tokenizer.json"
        self.tokenizer = load_tokenizer(tokenizer) if tokenizer.exists() else None

    def run(self, state: State) -> None:
        """A step's metrics are read after the next one was started: the device never waits for us, nor we run ahead."""
        t = self.config.train
        state = jax.device_put(state, replicated(self.mesh))
        clock = Clock(t.batch_size * self.config.model.context_length)
        before: Metrics | None = None
        for step in range(1, t.steps + 1):
            state, metrics = self.step(state, self.batch(step - 1))
            if before:
                jax.block_until_ready(before)
                if (step - 1) % t.log_every == 0:
                    self.log(step - 1, before, clock.tokens_per_second(step - 1))
                if step == 2:  # the first step was compiled as well
                    clock.start(1)
            before = metrics
            if step % t.eval_every == 0 or step == t.steps:
                before = None
                jax.block_until_ready(metrics)
                speed = clock.tokens_per_second(step)
                self.log(step, metrics, speed, val_loss := self.validate(state))
                self.save(state, step, val_loss)
                clock.start(step)

    def batch(self, step: int) -> jax.Array:
        t, length = self.config.train, self.config.model.context_length
        ids = batch(self.dataset.train, seed=t.seed, step=step, batch_size=t.batch_size, context_length=length)
        return jax.device_put(ids.reshape(t.accumulate, self.rows, length + 1), over_rows(self.mesh, axis=1))

    def validate(self, state: State) -> float:
        limit = self.config.train.eval_batches or None
        return self.evaluator.mean_loss(evaluated(state), self.dataset.val, limit)

    def log(self, step: int, metrics: Metrics, speed: float, val_loss: float | None = None) -> None:
        loss, norm = float(metrics.loss), float(metrics.gradient_norm)
        require(
            math.isfinite(loss) and math.isfinite(norm) and math.isfinite(val_loss or 0),
            f"At step {step} the loss is {loss}, the gradient norm {norm} and the validation loss {val_loss}. "
            f"{self.last_good()} Try a lower optim.learning_rate.",
        )
        rate = float(metrics.learning_rate)
        line: dict[str, Any] = {"step": step, "loss": loss, "learning_rate": rate, "gradient_norm": norm}
        line |= {"val_loss": val_loss} if val_loss is not None else {}
        with (self.directory / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({**line, "tokens_per_second": round(speed)}) + "\n")
        val = f"  val {val_loss:.4f}" if val_loss is not None else ""
        steps = self.config.train.steps
        left = (steps - step) * self.config.train.batch_size * self.config.model.context_length / speed
        self.say(
            f"step {step:>{len(str(steps))}}/{steps}  loss {loss:.4f}{val}  lr {rate:.2e}  norm {norm:.2f}  "
            f"{speed:,.0f} tokens/s  {left // 60:.0f}:{left % 60:02.0f} left"
        )

    def last_good(self) -> str:
        kept = checkpoint.best_and_last(self.directory)
        return f"The last good checkpoint is {kept[-1]}." if kept else "No checkpoint had been written yet."

    def save(self, state: State, step: int, val_loss: float) -> None:
        checkpoint.save(
            self.directory / checkpoint.CHECKPOINTS / f"step-{step:08}",
            self.config.model,
            evaluated(state),
            {
                **dataclasses.asdict(self.config),
                "step": step,
                "val_loss": val_loss,
                "data_sha256": self.dataset.train_sha256,
            },
            self.tokenizer,
            besides_weights(state),
        )
        checkpoint.keep_best_and_last(self.directory)


def evaluated(state: State) -> Tree:
    """The weights that count: their average, where one is kept."""
    return state.params if state.ema is None else state.ema


def besides_weights(state: State) -> dict[str, Any]:
    """What a checkpoint needs beside `evaluated(state)`."""
    return {
        name: value for name, value in state._asdict().items() if value is not None and value is not evaluated(state)
    }


class Clock:
    """Tokens per second since the last look, evaluation and saving not counted."""

    def __init__(self, tokens_per_step: int):
        self.tokens_per_step = tokens_per_step
        self.start(0)

    def start(self, step: int) -> None:
        self.step, self.time = step, time.perf_counter()

    def tokens_per_second(self, step: int) -> float:
        speed = (step - self.step) * self.tokens_per_step / max(time.perf_counter() - self.time, 1e-9)
        self.start(step)
        return speed

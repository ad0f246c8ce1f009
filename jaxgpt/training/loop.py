"""The loop: steps, and what happens between them. Knows when things happen; how, the rooms below know."""

import contextlib
import dataclasses
import math
import signal
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.config import Config
from jaxgpt.data import batches, tokenizer_files
from jaxgpt.data.tokens import Dataset
from jaxgpt.devices.distributed import first, together
from jaxgpt.devices.distributed import stopping as stopping_at
from jaxgpt.devices.mesh import make_mesh
from jaxgpt.devices.sharding import over_rows
from jaxgpt.errors import Failure, UserError, system_error
from jaxgpt.generation.stream import generate
from jaxgpt.model import assemble
from jaxgpt.pytree import Tree
from jaxgpt.storage import model_directory, plots, run_directory
from jaxgpt.system.signals import Signals, Stopped
from jaxgpt.system.worker import Background
from jaxgpt.training.evaluate import Evaluator
from jaxgpt.training.progress import Passing, Progress, Say
from jaxgpt.training.step import Compute, Metrics, State, besides_weights, evaluated, jitted_step
from jaxgpt.training.trackers import Track, trackers


class Loop:
    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        run: Path,
        say: Say,
        passing: Passing | None = None,
        signals: Signals | None = None,
        skipped: int = 0,
        origin: Mapping[str, Any] | None = None,
    ):
        """Whatever is wrong with the config is found here, before anything is written."""
        self.config, self.dataset, self.directory, self.say = config, dataset, run, say
        self.signals = signals or Signals()
        self.rows = config.train.batch_size // config.train.accumulate
        self.mesh = make_mesh(config.mesh, self.rows, config.model.model_dim)
        self.parts = over_rows(self.mesh, axis=1)
        self.attention = Compute.on(self.mesh, config.model, config.compute).attention
        self.step, _ = jitted_step(config, self.mesh)
        self.evaluator = Evaluator(config.model, config.compute, self.mesh, self.rows)
        self.batch(0)
        tokenizer = dataset.path / "tokenizer.json"
        self.tokenizer = tokenizer_files.load(tokenizer) if tokenizer.exists() else None
        self.eval_limit = config.train.eval_batches or None
        self.evaluated_on = self.evaluator.extent(len(dataset.val), self.eval_limit)
        devices = list(self.mesh.devices.flat)
        self.progress = Progress(config, devices, say, passing, self.evaluated_on)
        self.background = Background()
        self.trackers: Sequence[Track] = ()
        self.skipped = skipped  # steps in a row
        self.origin = dict(origin or {})  # for config.json: the file that it all began with

    def go(self, state: State) -> None:
        """`run`, and whatever may end it: a signal, a full disk."""
        try:
            watched = (
                trackers(self.config, self.directory, int(state.step))
                if first()
                else contextlib.nullcontext(())
            )
            with watched as self.trackers:
                self.signals.held = True
                if self.signals.caught:
                    raise Stopped(self.signals.caught)
                self.run(state)
                self.background.wait()
        except Stopped as stopped:
            self.say(f"Stopped by {signal.Signals(stopped.args[0]).name}. {self.last_good()}")
            if not first():
                print(
                    "Stopped, as one of the processes was told to; process 0 says where.",
                    file=sys.stderr,
                )
            raise
        except jax.errors.JaxRuntimeError as error:
            if not together():
                raise
            raise Failure(
                f"Another process of this run is gone, or cannot be reached: {' '.join(str(error).split())[:200]}. "
                f"{self.last_good()} Start all of them again."
            ) from error
        except OSError as error:
            told = system_error(error)
            raise type(told)(f"The run could not be written: {told} {self.last_good()}") from error
        finally:
            self.signals.held = False
            with contextlib.suppress(OSError):  # the run is held until nothing is written any more
                self.background.wait()

    def run(self, state: State) -> None:
        """A step's metrics are read after the next one was started: the device never waits for us, nor we run ahead."""
        t = self.config.train
        first = int(state.step) + 1
        waiting: tuple[int, Metrics] | None = None
        self.progress.doing(first - 1, "compiling")
        for step in range(first, t.steps + 1):
            state, metrics = self.step(state, self.batch(step - 1))
            if waiting:
                self.settle(*waiting)
                if step == first + 1:  # the first step was compiled as well
                    self.progress.start(first)
            waiting = step, metrics
            self.background.check()
            stopping, evaluating = (
                stopping_at(self.signals, step),
                step % t.eval_every == 0 or step == t.steps,
            )
            if evaluating or stopping or (t.save_every and step % t.save_every == 0):
                waiting = None
                val_loss = self.settle(step, metrics, state if evaluating else None)
                self.progress.doing(step, "saving")
                self.save(state, step, val_loss)
                self.progress.start(step)
            if stopping:
                self.background.wait()
                raise Stopped(stopping)

    def batch(self, step: int) -> jax.Array:
        t, length = self.config.train, self.config.model.context_length
        shape = (t.accumulate, self.rows, length + 1)

        def part(where: Any) -> np.ndarray:
            """A device's own rows; no process makes those of another."""
            rows = np.arange(t.batch_size).reshape(shape[:2])[where[:2]]
            options = {
                "seed": t.seed,
                "step": step,
                "batch_size": t.batch_size,
                "context_length": length,
            }
            return batches.batch(self.dataset.train, rows=rows.ravel(), **options).reshape(
                *rows.shape, length + 1
            )

        return jax.make_array_from_callback(shape, self.parts, part)

    def settle(self, step: int, metrics: Metrics, evaluate: State | None = None) -> float | None:
        """What is known of a step is checked, written and shown; returns the validation loss, where asked for one."""
        line: dict[str, Any] = {}
        figures: dict[str, Any] = {
            name: float(value) for name, value in jax.device_get(metrics)._asdict().items()
        }
        self.count_skipped(step, figures)
        logged = evaluate is not None or step % self.config.train.log_every == 0
        speed = self.progress.tokens_per_second(step) if logged else 0.0
        if evaluate is not None:
            self.progress.doing(step, "evaluating")
            figures["val_loss"] = self.validate(evaluate)
            if not math.isfinite(figures["val_loss"]):
                raise self.no_number(step, "validation loss", figures["val_loss"])
        if logged:
            written = {
                name: value if math.isfinite(value) else None for name, value in figures.items()
            }
            line = {"step": step, **written, "tokens_per_second": round(speed)}
            if evaluate is not None and (text := self.sample(evaluate)):
                line["sample"] = text
            if first():
                run_directory.append_metrics(self.directory, line)
            for track in self.trackers:
                track(line)
        self.progress.step(step, logged, **figures)
        if "sample" in line:
            self.say(textwrap.indent(line["sample"], "    | ", lambda _: True))
        return figures.get("val_loss")

    def count_skipped(self, step: int, figures: dict[str, float]) -> None:
        """The step itself has left the weights alone where its loss or gradient was no number."""
        wrong = {
            name.replace("_", " "): value
            for name, value in figures.items()
            if not math.isfinite(value)
        }
        self.skipped = self.skipped + 1 if wrong else 0
        if self.skipped > self.config.train.skip_nonfinite:
            raise self.no_number(step, *next(iter(wrong.items())))
        if wrong:
            causes = " and ".join(f"its {name} is {value}" for name, value in wrong.items())
            self.say(f"Step {step} was skipped: {causes}.")

    def no_number(self, step: int, name: str, value: float) -> UserError:
        row = f", {self.skipped} steps in a row" if self.skipped > 1 else ""
        return UserError(
            f"At step {step} the {name} is {value}{row}. {self.last_good()} Try a lower optim.learning_rate, or pass "
            f"over such steps with --train.skip_nonfinite {2 * self.config.train.skip_nonfinite or 3}."
        )

    def validate(self, state: State) -> float:
        return self.evaluator.mean_loss(evaluated(state), self.dataset.val, self.eval_limit)

    def sample(self, state: State) -> str:
        """What the model would write by now; on one device, where the others have the same weights."""
        tokens, tokenizer = self.config.train.sample_tokens, self.tokenizer
        divided = self.mesh.size > self.mesh.shape["data"]
        if not tokens or not tokenizer or not first() or (divided and together()):
            return ""
        weights = evaluated(state)
        if not divided:
            weights = jax.tree.map(lambda leaf: leaf.addressable_data(0), weights)
        allowed = tokenizer.decodable(self.config.model.vocab_size)
        pieces = generate(
            assemble(self.config.model, weights), [tokenizer.start], tokens, 0.8, allowed=allowed
        )
        return tokenizer.decode(np.concatenate(list(pieces)))

    def last_good(self) -> str:
        """The one that is being written counts, if it can be written."""
        with contextlib.suppress(OSError):
            self.background.wait()
        if saved := run_directory.checkpoints(self.directory):
            return f"The last good checkpoint is {saved[-1]}; the same command goes on from it."
        return "No checkpoint had been written yet."

    def save(self, state: State, step: int, val_loss: float | None) -> None:
        """Steps go on while it is written: what is written are copies."""
        copied = on_devices if together() else on_host
        weights, beside = copied(evaluated(state)), copied(besides_weights(state))
        about = {
            **dataclasses.asdict(self.config),
            **self.origin,
            "step": step,
            "val_loss": val_loss,
            "skipped": self.skipped,
            "data_sha256": self.dataset.train_sha256,
        }
        metrics = (self.directory / run_directory.METRICS).read_bytes() if first() else None

        def write() -> None:
            path = run_directory.checkpoint_of(self.directory, step)
            save, config = model_directory.save, self.config.model
            save(path, config, weights, about, self.tokenizer, state=beside, metrics=metrics)
            if not first():
                return
            run_directory.keep(self.directory, self.config.train.keep)
            if plots.INSTALLED and val_loss is not None:
                self.draw()

        self.background.start(write)

    def draw(self) -> None:
        """A picture is not worth a run."""
        try:
            metrics = run_directory.read_metrics(self.directory)
            plots.draw_losses(metrics, self.directory, self.evaluated_on)
        except OSError:
            raise
        except Exception as error:
            self.say(
                f"{self.directory / plots.PICTURE} was not drawn: {' '.join(str(error).split())[:200]}"
            )


def on_host(tree: Tree) -> Tree:
    """On a CPU a view would change under us, for the next step writes over what it was given."""
    return jax.tree.map(np.array, tree)


def on_devices(tree: Tree) -> Tree:
    """Where no process has all of it."""
    return jax.tree.map(jnp.copy, tree)

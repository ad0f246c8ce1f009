"""The training loop: the steps of a run, and what happens between them."""

import contextlib
import math
import signal
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from jaxgpt.devices.distributed import (
    START_AGAIN,
    from_peer,
    is_process_zero,
    signal_to_stop_at,
    unreachable,
)
from jaxgpt.devices.mesh import make_mesh
from jaxgpt.devices.sharding import replicated
from jaxgpt.errors import Failure, UserError, system_error
from jaxgpt.pytree import Tree
from jaxgpt.storage import run_directory
from jaxgpt.storage.weights import jitted_merge
from jaxgpt.system.signals import Signals, Stopped
from jaxgpt.training.batches import batches, split_of
from jaxgpt.training.checkpoints import Checkpoints
from jaxgpt.training.compute import Compute
from jaxgpt.training.evaluators import make_evaluator
from jaxgpt.training.first_state import all_finite
from jaxgpt.training.job import Job
from jaxgpt.training.preview import preview
from jaxgpt.training.profile import Profile
from jaxgpt.training.progress import Passing, Progress, Say
from jaxgpt.training.step import Metrics, State, jitted_step, weights_to_evaluate
from jaxgpt.training.trackers import Track, trackers


class Loop:
    """The loop of `job`. The constructor finds errors in the config before anything is written."""

    def __init__(
        self, job: Job, say: Say, passing: Passing | None = None, signals: Signals | None = None
    ):
        config, rows = job.config, job.config.train.batch_size // job.config.train.accumulate
        self.job, self.config, self.say = job, config, say
        self.signals = signals or Signals()
        self.mesh = make_mesh(config.mesh, rows, config.model.model_dim)
        compute = Compute.of(config, self.mesh)
        self.choices = compute.choices
        self.step, state_shardings = jitted_step(config, self.mesh, compute)
        if state_shardings.base:
            self.merge = jitted_merge(state_shardings.base, config.train.lora_scale)
        self.finite = jax.jit(all_finite, out_shardings=replicated(self.mesh))
        self.batch = batches(job.dataset, config, self.mesh)
        self.batch(0)  # raises if there are too few data
        self.evaluator = make_evaluator(config.architecture, compute, self.mesh, rows)
        self.eval_limit = config.train.eval_batches or None
        self.val = split_of(job.dataset, "val", config)
        self.extent = self.evaluator.extent(self.val, self.eval_limit)
        self.progress = Progress(
            config,
            list(self.mesh.devices.flat),
            say,
            passing,
            self.extent,
            tokens_per_step=self.batch.tokens_per_step,
        )
        self.checkpoints = Checkpoints(job, self.extent, say)
        self.profile = Profile(config.run, job.directory, say)
        self.trackers: Sequence[Track] = ()
        self.skipped = job.skipped  # steps in a row

    def train(self, state: State) -> None:
        """Run the steps that remain after `state`.

        However the steps end, wait until a checkpoint that is being written is complete.
        """
        try:
            with self._errors_explained(), contextlib.ExitStack() as stack:
                if is_process_zero():
                    opened = trackers(self.config, self.job.directory, int(state.step))
                    self.trackers = stack.enter_context(opened)
                stack.enter_context(self.profile.stopped_at_exit())
                self.signals.held = True
                if self.signals.caught:
                    raise Stopped(self.signals.caught)
                self.run_steps(state)
                self.checkpoints.worker.wait()
        finally:
            self.signals.held = False
            with contextlib.suppress(OSError):  # keep the run locked until nothing is being written
                self.checkpoints.worker.wait()

    @contextlib.contextmanager
    def _errors_explained(self) -> Iterator[None]:
        """Extend errors and signals by a sentence on the checkpoint that the run can resume
        from."""
        try:
            yield
        except Stopped as stopped:
            name = signal.Signals(stopped.args[0]).name
            self.say(f"Stopped by {name}. {self.checkpoints.last_good()}")
            if not is_process_zero():
                print("Stopped with the other processes; see process 0.", file=sys.stderr)
            raise
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            if not from_peer(error):
                raise
            last_good = self.checkpoints.last_good()
            raise Failure(f"{unreachable(error)} {last_good} {START_AGAIN}") from error
        except OSError as error:
            problem = system_error(error)
            raise type(problem)(
                f"The run could not be written: {problem} {self.checkpoints.last_good()}"
            ) from error

    def run_steps(self, state: State) -> None:
        """Run the steps after `state`, and read the metrics of each after the next has started.

        This way the device never waits for the host, and the host is at most one step ahead.
        """
        t = self.config.train
        start = int(state.step) + 1
        unread: tuple[int, Metrics] | None = None
        self.progress.doing(start - 1, "compiling")
        for step in range(start, t.steps + 1):
            self.job.dataset.files.require()
            with self.profile.before(step, state):
                state, metrics = self.step(state, self.batch(step - 1))
            self.profile.after(step, state)
            if unread:
                self.process(*unread)
                if step == start + 1:  # the first step included compiling
                    self.progress.start(start)
            unread = step, metrics
            self.checkpoints.worker.check()
            stopping = signal_to_stop_at(step, self.signals)
            evaluating = step % t.eval_every == 0 or step == t.steps
            if evaluating or stopping or (t.save_every and step % t.save_every == 0):
                unread = None
                val_loss = self.process(step, metrics, state if evaluating else None)
                self.progress.doing(step, "saving")
                self.save(state, step, val_loss)
                self.progress.start(step)
            if stopping:
                self.checkpoints.worker.wait()
                raise Stopped(stopping)

    def process(self, step: int, metrics: Metrics, state: State | None = None) -> float | None:
        """Check, record and show the `metrics` of a step; evaluate `state` and return its loss."""
        figures = {name: float(x) for name, x in jax.device_get(metrics)._asdict().items()}
        self.count_skipped(step, figures)
        logged = state is not None or step % self.config.train.log_every == 0
        speed = self.progress.tokens_per_second(step) if logged else 0.0
        sample = ""
        if state is not None:
            self.progress.doing(step, "evaluating")
            weights = self.whole(state)
            figures |= self.validate(weights)
            if not math.isfinite(figures["val_loss"]):
                raise self.nonfinite_error(step, "validation loss", figures["val_loss"])
            sample = preview(self.job, weights, self.checkpoints.tokenizers, self.mesh)
        if logged:
            self.record(step, figures, speed, sample)
        self.progress.step(step, logged, **figures)
        if sample:
            self.say(textwrap.indent(sample, "    | ", lambda _: True))
        return figures.get("val_loss")

    def record(self, step: int, figures: dict[str, float], speed: float, sample: str) -> None:
        """Write the `figures` of a step to metrics.jsonl and trackers; non-finite ones as null."""
        line: dict[str, Any] = {"step": step}
        line |= {name: x if math.isfinite(x) else None for name, x in figures.items()}
        line["tokens_per_second"] = round(speed)
        if sample:
            line["sample"] = sample
        if is_process_zero():
            run_directory.append_metrics(self.job.directory, line)
        for track in self.trackers:
            track(line)

    def count_skipped(self, step: int, figures: dict[str, float]) -> None:
        """Raise if too many steps in a row were non-finite. Such a step has changed no weight."""
        wrong = {
            name.replace("_", " "): value
            for name, value in figures.items()
            if not math.isfinite(value)
        }
        self.skipped = self.skipped + 1 if wrong else 0
        if self.skipped > self.config.train.skip_nonfinite:
            raise self.nonfinite_error(step, *next(iter(wrong.items())))
        if wrong:
            causes = " and ".join(f"its {name} is {value}" for name, value in wrong.items())
            self.say(f"Step {step} was skipped: {causes}.")

    def nonfinite_error(self, step: int, name: str, value: float) -> UserError:
        """The error for a `value` that is not finite, with two ways out."""
        row = f", {self.skipped} steps in a row" if self.skipped > 1 else ""
        more = 2 * self.config.train.skip_nonfinite or 3
        return UserError(
            f"At step {step} the {name} is {value}{row}. {self.checkpoints.last_good()} Try a "
            f"lower optim.learning_rate, or skip such steps with --train.skip_nonfinite {more}."
        )

    def whole(self, state: State) -> Tree:
        """The weights of `state` to evaluate, with adapters merged into their base."""
        weights = weights_to_evaluate(state)
        return weights if state.base is None else self.merge(state.base, weights)

    def validate(self, weights: Tree) -> dict[str, float]:
        """The validation figures of `weights`, over at most train.eval_batches batches."""
        return self.evaluator.figures(weights, self.val, self.eval_limit)

    def save(self, state: State, step: int, val_loss: float | None) -> None:
        """Start writing a checkpoint of `state`, if all its numbers are finite."""
        if not self.finite(state):
            raise UserError(
                f"After step {step} weights, or moments of the optimiser, are NaN or infinite, and "
                f"are not saved. {self.checkpoints.last_good()} Try a lower optim.learning_rate."
            )
        self.checkpoints.save(state, {"step": step, "val_loss": val_loss, "skipped": self.skipped})

"""Writes the checkpoints of a run in a thread, while its steps continue."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt import file_names
from jaxgpt.data.tokenizer_files import load as load_tokenizer
from jaxgpt.devices.distributed import is_multi_process, is_process_zero
from jaxgpt.pytree import Tree
from jaxgpt.storage import model_directory, plots, run_directory
from jaxgpt.storage.weights import fingerprint
from jaxgpt.system import directories
from jaxgpt.system.worker import Background
from jaxgpt.training.job import Job
from jaxgpt.training.progress import Say
from jaxgpt.training.step import State, besides_weights, weights_to_evaluate


class Checkpoints:
    """Writes the checkpoints of `job`; `extent` says how much of the split an evaluation takes."""

    def __init__(self, job: Job, extent: str, say: Say):
        self.job, self.extent, self.say = job, extent, say
        source, target = (
            load_tokenizer(file) if file.exists() else None
            for file in (
                job.dataset.path / name
                for name in (file_names.TOKENIZER, file_names.TARGET_TOKENIZER)
            )
        )
        self.tokenizers = source, target
        self.worker = Background()

    def write_base(self, params: Tree) -> None:
        """Write the frozen base of a run that trains adapters, once for all checkpoints."""
        path = self.job.directory / file_names.BASE
        # A folder that is there was left by a run that died before its first checkpoint.
        if is_process_zero() and path.exists():
            directories.discard(path)
        source, target = self.tokenizers
        model_directory.save(
            path,
            self.job.config.architecture,
            on_devices(params) if is_multi_process() else on_host(params),
            {**self.job.origin, **self.job.marks},
            source,
            target_tokenizer=target,
        )

    def save(self, state: State, about: dict[str, Any]) -> None:
        """Start writing `state`; `about`, with step and val_loss, goes into its config.json."""
        copied = on_devices if is_multi_process() else on_host
        weights, rest = copied(weights_to_evaluate(state)), copied(besides_weights(state))
        directory, config = self.job.directory, self.job.config
        about = {
            **config.sections(),
            **self.job.origin,
            **self.job.marks,
            "data_sha256": self.job.dataset.train_sha256,
            **about,
        }
        if state.base is not None:
            about["base_sha256"] = fingerprint(directory / file_names.BASE)
        metrics = (directory / file_names.METRICS).read_bytes() if is_process_zero() else None
        path = run_directory.checkpoint_of(directory, about["step"])

        def write() -> None:
            # Draw the picture first, because a run that is killed after its last checkpoint counts
            # as done.
            if is_process_zero() and plots.INSTALLED and about["val_loss"] is not None:
                self.draw()
            model_directory.save(
                path,
                config.architecture,
                weights,
                about,
                self.tokenizers[0],
                target_tokenizer=self.tokenizers[1],
                state=rest,
                metrics=metrics,
            )
            if is_process_zero():
                run_directory.keep(directory, config.train.keep)

        self.worker.start(write)

    def draw(self) -> None:
        """Draw the losses. A picture that cannot be drawn must not stop the run."""
        directory = self.job.directory
        try:
            plots.draw_losses(run_directory.read_metrics(directory), directory, self.extent)
        except OSError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            self.say(f"{directory / file_names.PICTURE} was not drawn: {reason}")

    def last_good(self) -> str:
        """A sentence that names the newest checkpoint; waits for one that is being written."""
        with contextlib.suppress(OSError):
            self.worker.wait()
        if saved := run_directory.checkpoints(self.job.directory):
            return f"The last good checkpoint is {saved[-1]}; the same command resumes from it."
        return "No checkpoint had been written yet."


def on_host(tree: Tree) -> Tree:
    """A copy of `tree` on the host; on a CPU, a view would change when the next step is
    computed."""
    return jax.tree.map(np.array, tree)


def on_devices(tree: Tree) -> Tree:
    """A copy of `tree` that stays sharded, for several processes that each hold a part of it."""
    return jax.tree.map(jnp.copy, tree)

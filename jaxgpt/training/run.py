"""A training run, from settings to a directory with checkpoints; a stopped run resumes."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxgpt import file_names
from jaxgpt.config import MeshConfig, RunConfig
from jaxgpt.devices.cpu import use_devices
from jaxgpt.devices.distributed import (
    alone_if_it_fails,
    catch_stop_signals,
    code_hash,
    is_process_zero,
    join_processes,
    require_agreement,
)
from jaxgpt.devices.sharding import undivided
from jaxgpt.errors import require
from jaxgpt.model import abstract_params
from jaxgpt.settings import Sections, build, check_sections
from jaxgpt.storage import run_directory
from jaxgpt.system.json_files import write_json
from jaxgpt.training.first_state import first_state
from jaxgpt.training.job import Job
from jaxgpt.training.loop import Loop
from jaxgpt.training.progress import Passing, Say
from jaxgpt.training.start import begin
from jaxgpt.training.step import State


@dataclass(frozen=True)
class Finished:
    """A run after its last step."""

    job: Job
    steps: int
    extent: str  # how much of the validation split the losses are of

    @property
    def directory(self) -> Path:
        return self.job.directory


def train(
    settings: Sections,
    config_file: str | None,
    say: Say = print,
    passing: Passing | None = None,
) -> Finished:
    """Train with `settings`, plain values in sections.

    Without a `config_file`, settings that are left out are those of the model in run.init. `say`
    prints a line; `passing` shows, on a terminal, a line that the next one replaces.
    """
    where = config_file or f"--init {_required_init(settings)}"
    check_sections(settings, where)
    mesh: MeshConfig = build(MeshConfig, settings.get("mesh", {}), f"{where} [mesh]")
    location: RunConfig = build(RunConfig, settings.get("run", {}), f"{where} [run]")
    use_devices(mesh)
    join_processes(mesh)
    if not is_process_zero():
        say, passing = (lambda line: None), None
    run = Path(location.dir)
    lock = run_directory.locked_run(run) if is_process_zero() else contextlib.nullcontext()
    with alone_if_it_fails(), catch_stop_signals() as signals, lock:
        job = begin(settings, config_file, run, say)
        if is_process_zero() and job.resumed:  # in case the process was killed after its last save
            run_directory.keep(run, job.config.train.keep)
        loop = Loop(job, say, passing, signals)
        for parameter in undivided(abstract_params(job.config.architecture), loop.mesh):
            say(f"{parameter}.")
        state = first_state(job, loop.mesh)
        done, steps = int(state.step), job.config.train.steps
        _require_agreement(job, done)
        if done >= steps:
            had = f"{run} has had {done} steps, and train.steps is {steps}"
            say(f"{had}: there is nothing left to do.")
        else:
            for line in _announcement(job, state, loop.choices):
                say(line)
            if is_process_zero():
                _prepare_directory(job, where)
            if state.base and not job.resumed:
                loop.checkpoints.write_base(state.base)
            loop.train(state)
    return Finished(job, max(done, steps), loop.extent)


def _required_init(settings: Sections) -> str:
    """The model to fine-tune, which is needed if there is no config file."""
    init: str = settings.get("run", {}).get("init", "")
    require(
        bool(init),
        "There is nothing to train: name a config, as in jaxgpt train quickstart, or "
        "a model to fine-tune, as in jaxgpt train --init DIR --data.path TEXT --run.dir OUT.",
    )
    return init


def _require_agreement(job: Job, done: int) -> None:
    """Require that all processes have the same code, data, settings and number of steps."""
    sections: dict[str, Any] = job.config.sections()
    sections["mesh"].pop("process")
    require_agreement(
        {"code": code_hash(), "step": done, "data": job.dataset.train_sha256, **sections}
    )


def _announcement(job: Job, state: State, choices: Iterable[tuple[str, str]]) -> list[str]:
    """The lines to show before the first step."""
    size = sum(leaf.size for leaf in jax.tree.leaves(state.base or state.params))
    trained = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    adapters = f" and {trained:,} in adapters, which alone are trained" if state.base else ""
    unit, train, val = job.sizes
    verb = "resuming from" if int(state.step) else "starting from"
    start = job.source.path if job.source else "random weights"
    return [
        f"{size:,} parameters{adapters}, {train:,} {unit} to train on, {val:,} to validate",
        *(f"{setting}: {choice}" for setting, choice in choices),
        f"{verb} {start}; compiling first, which takes a while",
    ]


def _prepare_directory(job: Job, where: str) -> None:
    """Write config.json of the run, and drop the metrics of steps that are repeated."""
    about = {"origin": where, **job.config.sections()}
    write_json(job.directory / file_names.CONFIG, about)
    checkpoint = job.source.path if job.source and job.resumed else None
    run_directory.rewind_metrics(job.directory, checkpoint)

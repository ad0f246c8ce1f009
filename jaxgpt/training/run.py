"""Training: from settings to a run's directory, from the beginning or from where it stopped. Knows no step."""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxgpt.config import Config, MeshConfig, RunConfig
from jaxgpt.devices.cpu import use_devices
from jaxgpt.devices.distributed import (
    alone_if_it_fails,
    code,
    first,
    join,
    require_agreement,
    stops,
)
from jaxgpt.devices.sharding import undivided
from jaxgpt.model import abstract_params
from jaxgpt.settings import build
from jaxgpt.storage import plots, run_directory
from jaxgpt.system import atomic_files
from jaxgpt.training.loop import Loop
from jaxgpt.training.progress import Passing, Say
from jaxgpt.training.start import begin, first_state


def train(
    settings: Mapping[str, Any], where: str, say: Say = print, passing: Passing | None = None
) -> Path:
    """Run what `settings` (sections of plain values, from `where`) describe; returns the run's directory. `passing` is
    for who watches: it gets every step."""
    mesh: MeshConfig = build(MeshConfig, settings.get("mesh", {}), f"{where} [mesh]")
    location: RunConfig = build(RunConfig, settings.get("run", {}), f"{where} [run]")
    use_devices(mesh)
    join(mesh)
    if not first():
        say, passing = (lambda line: None), None
    run = Path(location.dir)
    with (
        alone_if_it_fails(),
        stops() as caught,
        run_directory.held(run) if first() else contextlib.nullcontext(),
    ):
        beginning = begin(settings, where, run, say)
        config, dataset, source = beginning.config, beginning.dataset, beginning.source
        about = source.about if source else {}
        skipped = about.get("skipped", 0) if beginning.resumed else 0
        loop = Loop(config, dataset, run, say, passing, caught, skipped, origin(about))
        for whole in undivided(abstract_params(config.model), loop.mesh):
            say(f"{whole}.")
        state = first_state(beginning, loop.mesh)
        done = int(state.step)
        require_agreement(
            {"code": code(), "step": done, "data": dataset.train_sha256, **shared(config)}
        )
        if done >= config.train.steps:
            say(
                f"{run} has had {done} steps, and train.steps is {config.train.steps}: there is nothing left to do."
            )
        else:
            size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
            say(
                f"{size:,} parameters, {len(dataset.train):,} tokens to train on, {len(dataset.val):,} to validate"
            )
            verb = "going on from" if done else "starting from"
            say(loop.attention)
            say(
                f"{verb} {source.path if source else 'random weights'}; compiling first, which takes a while"
            )
            if first():
                atomic_files.write_json(
                    run / run_directory.CONFIG, {"origin": where, **dataclasses.asdict(config)}
                )
                run_directory.rewind_metrics(
                    run, source.path if source and beginning.resumed else None
                )
            loop.go(state)
        if first():
            say(ending(run, max(done, config.train.steps), loop.evaluated_on))
    return run


def origin(about: Mapping[str, Any]) -> dict[str, Any]:
    """The file that the first weights came from, and how each field of their model is known."""
    return {name: about[name] for name in ("source", "fields") if name in about}


def shared(config: Config) -> dict[str, Any]:
    """What must be the same in all processes of a run."""
    sections = dataclasses.asdict(config)
    sections["mesh"].pop("process")
    return sections


def ending(run: Path, done: int, evaluated_on: str) -> str:
    """What there is now, and what can be done with it."""
    found = run_directory.summary(run)
    loss, val_loss = (
        "unknown" if number is None else f"{number:.4f}" for number in (found.loss, found.val_loss)
    )
    extent = "" if found.val_loss is None else f" ({evaluated_on})"
    picture = f", {plots.FILE}" if (run / plots.FILE).exists() else ""
    return "\n".join(
        [
            f"Done: {done} steps, loss {loss}, best validation loss {val_loss}{extent}.",
            f"  run       {run}: {run_directory.METRICS}{picture}, {run_directory.CONFIG}, {run_directory.CHECKPOINTS}",
            f"  evaluate  jaxgpt eval {run}",
            f"  sample    jaxgpt sample {run}",
            f"  export    jaxgpt-convert to-torch {run} {run.resolve().name}.pt --dialect gpt",
            f"  go on     the same command with --train.steps {2 * done}",
        ]
    )

"""Training: from settings to a run's directory, from the beginning or from where it stopped. Knows no step."""

import contextlib
import dataclasses
import importlib.util
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxgpt.config import Config, MeshConfig, OptimConfig, RunConfig
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
from jaxgpt.errors import require
from jaxgpt.model import abstract_params
from jaxgpt.settings import build, check_sections
from jaxgpt.storage import plots, run_directory
from jaxgpt.system import json_files
from jaxgpt.training.loop import Loop
from jaxgpt.training.progress import Passing, Say
from jaxgpt.training.start import begin, first_state


def train(
    settings: Mapping[str, Any],
    config_file: str | None,
    say: Say = print,
    passing: Passing | None = None,
) -> Path:
    """Run what `settings`, sections of plain values, describe, and return the run's directory. Without a `config_file`
    they go with those of the model of run.init. `passing` is told of every step."""
    where = config_file or f"--init {require_something(settings)}"
    check_sections(settings, where)
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
        beginning = begin(settings, config_file, run, say)
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
                json_files.write_json(
                    run / run_directory.CONFIG, {"origin": where, **dataclasses.asdict(config)}
                )
                run_directory.rewind_metrics(
                    run, source.path if source and beginning.resumed else None
                )
            loop.go(state)
        if first():
            command = to_torch(run, config, about.get("source"))
            say(ending(run, max(done, config.train.steps), loop.evaluated_on, command))
    return run


def require_something(settings: Mapping[str, Any]) -> str:
    """The model to fine-tune, where there is no config file to say what else to train."""
    init = settings.get("run", {}).get("init")
    require(
        bool(init),
        "There is nothing to train: name a config, as in jaxgpt train configs/quickstart.toml, or a model to "
        "fine-tune, as in jaxgpt train --init DIR --data.path TEXT --run.dir OUT.",
    )
    return init


def origin(about: Mapping[str, Any]) -> dict[str, Any]:
    """The file that the first weights came from, and how each field of their model is known."""
    return {name: about[name] for name in ("source", "fields") if name in about}


def shared(config: Config) -> dict[str, Any]:
    """What must be the same in all processes of a run."""
    sections = dataclasses.asdict(config)
    sections["mesh"].pop("process")
    return sections


def to_torch(run: Path, config: Config, file: Mapping[str, Any] | None) -> str:
    """The command that writes the run's model for torch: as the `file` that it came from, or for a class that the
    converter chooses; "" where there may be none, for OPT alone has rows before position 0.

    Where torch is not installed it writes safetensors, which hold the weights alone.
    """
    if config.model.positions_offset and not file:
        return ""
    groups = (file or {}).get("settings", {}).get("optim", {}).get("decay", OptimConfig.decay)
    torch = importlib.util.find_spec("torch") is not None
    file_name = run.resolve().name + (".pt" if torch else ".safetensors")
    words = ["jaxgpt-convert", "to-torch", str(run), file_name]
    # No optimiser of torch's has an average or these groups.
    if config.optim.ema or config.optim.decay not in ("all", groups) or not torch:
        words.append("--weights-only")
    return shlex.join(words)


def ending(run: Path, done: int, evaluated_on: str, to_torch: str) -> str:
    """What there is now, and what can be done with it."""
    found = run_directory.summary(run)
    loss, val_loss = (
        "unknown" if number is None else f"{number:.4f}" for number in (found.loss, found.val_loss)
    )
    extent = "" if found.val_loss is None else f" ({evaluated_on})"
    picture = f", {plots.PICTURE}" if (run / plots.PICTURE).exists() else ""
    name = shlex.quote(str(run))
    lines = [
        f"Done: {done} steps, loss {loss}, best validation loss {val_loss}{extent}.",
        f"  run       {run}: {run_directory.METRICS}{picture}, {run_directory.CONFIG}, {run_directory.CHECKPOINTS}",
        f"  evaluate  jaxgpt eval {name}",
        f"  sample    jaxgpt sample {name}",
    ]
    if to_torch:
        lines.append(f"  export    {to_torch}")
    return "\n".join([*lines, f"  go on     the same command with --train.steps {2 * done}"])

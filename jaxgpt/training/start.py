"""Where a run begins: at random weights, at another model's, or where it stopped. Knows no step."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgpt.config import Config, require
from jaxgpt.data.prepare import prepare
from jaxgpt.data.tokens import ABOUT, Dataset, open_dataset
from jaxgpt.devices.distributed import first, wait
from jaxgpt.devices.sharding import shardings
from jaxgpt.pytree import flatten
from jaxgpt.settings import build
from jaxgpt.storage import model_directory, run_directory
from jaxgpt.system import atomic_files
from jaxgpt.training.evaluate import fit_vocabulary, require_same_tokenizer
from jaxgpt.training.optimizer import going_on
from jaxgpt.training.progress import Say
from jaxgpt.training.step import State, besides_weights, init_state


class Beginning(NamedTuple):
    config: Config
    dataset: Dataset
    source: model_directory.ModelDirectory | None  # of the first weights
    resumed: bool


def begin(settings: Mapping[str, Any], where: str, run: Path, say: Say) -> Beginning:
    if not first():  # who has set aside what is damaged, and prepared the data
        wait("the first has begun")
    stopped = model_directory.newest_whole(run, say)
    init = settings.get("run", {}).get("init")
    source = stopped or (model_directory.ModelDirectory(init) if init else None)
    inherited = dict(vars(source.config)) if source and init else {}
    config: Config = build(
        Config, {**settings, "model": {**inherited, **settings.get("model", {})}}, where
    )
    if source:
        require_same_architecture(source, config, str(run) if stopped else init)
    dataset = find_data(config, run, stopped)
    if first():
        wait("the first has begun")
    if source:
        require_same_tokenizer(source.path / "tokenizer.json", dataset.path / "tokenizer.json")
    config = dataclasses.replace(config, model=fit_vocabulary(config.model, dataset))
    if stopped:
        for change in changes(stopped.about, config, dataset):
            say(f"Changed since the run stopped: {change}")
    return Beginning(config, dataset, source, bool(stopped))


def require_same_architecture(
    source: model_directory.ModelDirectory, config: Config, name: str
) -> None:
    """Dropout is no part of it, nor the form of attention; a vocabulary that was left open becomes that of the data."""
    asked = dataclasses.replace(
        config.model, vocab_size=config.model.vocab_size or source.config.vocab_size
    )
    differing = [
        f"{field} is {value} in {name} and {getattr(asked, field)} in the config"
        for field, value in vars(source.config).items()
        if field != "dropout" and value != getattr(asked, field)
    ]
    require(
        not differing,
        f"The model cannot go on from {name}: {'; '.join(differing)}. Set these as they are there (with --init, "
        "leaving them out of [model] does so), or begin another run in another run.dir.",
    )


def changes(about: Mapping[str, Any], config: Config, dataset: Dataset) -> list[str]:
    """Of settings, and of the text itself. Where a run lies, who watches it and who shares its work is no
    change."""
    before, now = (
        flatten(about),
        flatten({**dataclasses.asdict(config), "data_sha256": dataset.train_sha256}),
    )
    return [
        f"{name.replace('/', '.')} was {before[name]} and is {value}"
        for name, value in now.items()
        if not name.startswith(("run/", "mesh/")) and name in before and before[name] != value
    ]


def find_data(config: Config, run: Path, stopped: model_directory.ModelDirectory | None) -> Dataset:
    """A text is prepared once for a run, in its directory."""
    source, own = Path(config.data.path), run / run_directory.DATA
    if (source / ABOUT).exists():
        return open_dataset(source)
    if not first():
        return open_dataset(own)
    if own.exists():
        require(
            (own / ABOUT).exists(),
            f"{own} is where this run would prepare its data, but holds something else: move it away, or choose "
            "another run.dir.",
        )
        file = (stopped.path if stopped else run) / run_directory.CONFIG
        before = atomic_files.read_json(file).get("data") if file.exists() else None
        now = dataclasses.asdict(config.data)
        if before == now:
            return open_dataset(own)
        require(
            not stopped,
            f"{run} was trained on the text of {before}, and the config says {now}. Leave it as it was; to train the "
            f"same model on another text, begin another run with --init {run}.",
        )
        shutil.rmtree(own)
    return prepare([config.data.path], own, tokenizer=config.data.tokenizer)


def first_state(beginning: Beginning, mesh: jax.sharding.Mesh) -> State:
    """Made or read in parts, each on the device that has it."""
    config, source = beginning.config, beginning.source
    like = jax.eval_shape(lambda: init_state(config))
    where = shardings(like, mesh)
    if source is None:
        return jax.jit(lambda: init_state(config), out_shardings=where)()
    weights = source.params(where.params)
    if not beginning.resumed:
        state = jax.jit(lambda params: init_state(config, params), out_shardings=where)(weights)
        return jax.device_put(_gone_on(state, config, source), where) if config.run.go_on else state
    averaged = bool(source.about.get("optim", {}).get("ema"))
    require(
        averaged == bool(config.optim.ema),
        f"optim.ema is {config.optim.ema}, but {source.path} was saved {'with' if averaged else 'without'} an average "
        f"of the weights. Set it as it was, or begin another run with --init {source.path}.",
    )
    state = source.state(besides_weights(like), besides_weights(where))
    return State(**{"params": weights, "ema": weights if averaged else None, **state})


def _gone_on(state: State, config: Config, source: model_directory.ModelDirectory) -> State:
    moments = source.moments()
    require(
        moments is not None,
        f"run.go_on is set, but {source.path} has no optimiser to go on with: leave it out to begin at step 0.",
    )
    assert moments is not None
    require(
        not source.about.get("optim", {}).get("ema"),
        f"run.go_on is set, but {source.path} holds the average of the weights that its optimiser went with. Go on in "
        "its own run, or leave run.go_on out.",
    )
    require(
        moments.step < config.train.steps,
        f"{source.path} has had {moments.step} steps, and train.steps is {config.train.steps}: it counts all of them.",
    )
    return state._replace(
        step=jnp.int32(moments.step), optimizer=going_on(state.optimizer, moments)
    )

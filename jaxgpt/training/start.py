"""Where a run begins: at random weights, at another model's, or where it stopped. Knows no step."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgpt.config import Config
from jaxgpt.data.prepare import prepare
from jaxgpt.data.tokens import ABOUT, Dataset, open_dataset
from jaxgpt.devices.distributed import first, wait
from jaxgpt.devices.sharding import shardings
from jaxgpt.errors import UserError, require
from jaxgpt.pytree import flatten
from jaxgpt.settings import build
from jaxgpt.storage import model_directory, names, run_directory
from jaxgpt.system import json_files
from jaxgpt.training import inherit
from jaxgpt.training.evaluate import fit_vocabulary, require_same_tokenizer
from jaxgpt.training.inherit import TOKENIZER
from jaxgpt.training.optimizer import going_on
from jaxgpt.training.progress import Say
from jaxgpt.training.step import State, besides_weights, init_state


class Beginning(NamedTuple):
    config: Config
    dataset: Dataset
    source: model_directory.ModelDirectory | None  # of the first weights
    resumed: bool


def begin(settings: Mapping[str, Any], config_file: str | None, run: Path, say: Say) -> Beginning:
    """Everything that a run begins with. Without a `config_file`, settings that are left out are the source's."""
    if not first():  # who has set aside what is damaged, and prepared the data
        wait("the first has begun")
    stopped = model_directory.newest_whole(run, say)
    init = settings.get("run", {}).get("init", "")
    with blaming(f"--init {init}"):
        source = stopped or (open_init(init) if init else None)
        if stopped and init:
            pass_over_init(init, stopped, say)
    layers = [settings]
    if source:
        layers = [*unsaid(source, bool(stopped), settings, config_file, say), settings]
    config: Config = build(Config, inherit.layered(*layers), config_file or f"--init {init}")
    option = "" if stopped or not init else f"--init {init}"
    with blaming(option):
        if source:
            require_same_architecture(source, config, str(run) if stopped else init)
    dataset = find_data(config, run, stopped)
    if first():
        wait("the first has begun")
    with blaming(option):
        if source:
            require_same_tokenizer(source.path / TOKENIZER, dataset.path / TOKENIZER)
        if source and not stopped and "tokenizer" not in settings.get("data", {}):
            require_its_characters(source, dataset, run)
        config = dataclasses.replace(config, model=fit_vocabulary(config.model, dataset))
    list_changes(source, bool(stopped), config, dataset, say)
    return Beginning(config, dataset, source, bool(stopped))


@contextlib.contextmanager
def blaming(option: str) -> Iterator[None]:
    """Begin what is wrong with the option that a person typed, if any."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{option}: {error}" if option else str(error)) from None


def open_init(init: str) -> model_directory.ModelDirectory:
    """The model directory or the run to start from."""
    require(
        not Path(init).is_file(),
        "this is a file; jaxgpt-convert to-flax FILE DIR makes a model directory of a PyTorch checkpoint.",
    )
    return model_directory.ModelDirectory(init)


def pass_over_init(init: str, stopped: model_directory.ModelDirectory, say: Say) -> None:
    """Say that a run resumes from its own checkpoint. The model it once started from may be gone by now."""
    started_from = stopped.about.get("run", {}).get("init")
    require(
        Path(init).is_dir() or init == started_from,
        f"{init} is not a directory. The run would resume from its own checkpoint, {stopped.path}, without it: leave "
        "--init out, or begin another run in another --run.dir.",
    )
    say(f"Resuming from {stopped.path}; --init {init} is not read again.")


def unsaid(
    source: model_directory.ModelDirectory,
    resumed: bool,
    settings: Mapping[str, Any],
    config_file: str | None,
    say: Say,
) -> list[inherit.Sections]:
    """Layers of settings for what `settings` leaves out."""
    layers: list[inherit.Sections] = []
    if settings.get("run", {}).get("init"):
        layers.append({"model": dict(vars(source.config))})
    if resumed:
        return [*layers, inherit.kept(source, settings, bool(config_file))]
    layers.append(inherit.tokenizer_of(source))
    if not config_file:
        layers.append(inherit.for_fine_tuning(source, settings, say))
    return layers


def require_its_characters(
    source: model_directory.ModelDirectory, dataset: Dataset, run: Path
) -> None:
    """A model without a tokenizer can only take the characters of a text where they are as many as its ids."""
    if (source.path / TOKENIZER).exists() or dataset.path != run / names.DATA:
        return
    require(
        not (dataset.path / TOKENIZER).exists() or dataset.vocab_size == source.config.vocab_size,
        f"the model has no tokenizer, and its vocabulary is {source.config.vocab_size}, but the text has "
        f"{dataset.vocab_size} different characters: which id means which is not known. Name the tokenizer that the "
        "model was trained with: --data.tokenizer FILE, a tokenizer.json or a list of characters as JSON.",
    )


def list_changes(
    source: model_directory.ModelDirectory | None,
    resumed: bool,
    config: Config,
    dataset: Dataset,
    say: Say,
) -> None:
    """Say which settings differ from those that the weights, or their optimiser, were trained with before."""
    if source and (resumed or config.run.go_on):
        before = source.about if resumed else inherit.recorded(source)
        for change in changes(before, config, dataset):
            say(f"Changed since the run stopped: {change}")


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
        f"The config describes another model than {name}: {'; '.join(differing)}. Set these as they are there (with "
        "--init, leaving them out of [model] does so), or begin another run in another --run.dir.",
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
    source, own = Path(config.data.path), run / names.DATA
    if (source / ABOUT).exists():
        return open_dataset(source)
    if not first():
        return open_dataset(own)
    if own.exists():
        require(
            (own / ABOUT).exists(),
            f"{own} is where this run would prepare its data, but holds something else: move it away, or choose "
            "another --run.dir.",
        )
        file = (stopped.path if stopped else run) / run_directory.CONFIG
        before = json_files.read_json(file).get("data") if file.exists() else None
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
    weights = source.sharded_params(where.params)
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
        f"--run.go_on: {source.path} has no optimiser to go on with: leave it out to begin at step 0.",
    )
    assert moments is not None
    require(
        not source.about.get("optim", {}).get("ema"),
        f"--run.go_on: {source.path} holds the average of the weights that its optimiser went with. Go on in its own "
        "run, or leave --run.go_on out.",
    )
    require(
        moments.step < config.train.steps,
        f"--run.go_on: {source.path} has had {moments.step} steps, and train.steps, which counts all of them, is "
        f"{config.train.steps}. Set --train.steps to more than {moments.step}.",
    )
    return state._replace(
        step=jnp.int32(moments.step), optimizer=going_on(state.optimizer, moments)
    )

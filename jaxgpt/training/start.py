"""Starts a run from random weights, from another model, or from its own checkpoint."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxgpt import file_names
from jaxgpt.config import Config
from jaxgpt.data.answers import recognise
from jaxgpt.data.pairs import PairDataset, open_pairs
from jaxgpt.data.prepare import prepare
from jaxgpt.data.prepare_answers import prepare_answers
from jaxgpt.data.prepare_pairs import prepare_pairs
from jaxgpt.data.tokens import Dataset, open_dataset
from jaxgpt.devices.distributed import is_process_zero, wait_for_all
from jaxgpt.errors import UserError, require
from jaxgpt.pytree import flatten
from jaxgpt.settings import Sections, build_run
from jaxgpt.storage.config_sections import sections_of
from jaxgpt.storage.model_directory import ModelDirectory, newest_whole
from jaxgpt.system import directories
from jaxgpt.system.json_files import read_json
from jaxgpt.training import inherit
from jaxgpt.training.compatibility import (
    fit_vocabularies,
    require_same_architecture,
    require_same_characters,
    require_same_optimizer,
    require_same_tokenizer,
)
from jaxgpt.training.job import Job
from jaxgpt.training.progress import Say

AnyData = Dataset | PairDataset


def begin(settings: Sections, config_file: str | None, run: Path, say: Say) -> Job:
    """The run that `settings` describe, with its data prepared.

    Without a `config_file`, settings that are left out are those of the model it starts from.
    """
    if not is_process_zero():  # process 0 sets damaged checkpoints aside and prepares the data
        wait_for_all("the first has begun")
    stopped = newest_whole(run, say)
    init = settings.get("run", {}).get("init", "")
    with _blaming(f"--init {init}"):
        source = stopped or (_open_init(init) if init else None)
        if stopped and init:
            _pass_over_init(init, stopped, say)
    layers = [settings]
    if source:
        layers = [*_default_layers(source, bool(stopped), settings, config_file, say), settings]
    config = build_run(inherit.merge_sections(*layers), config_file or f"--init {init}")
    option = f"--init {init}" if init and not stopped else ""
    with _blaming(option):
        if source:
            require_same_architecture(source, config, str(run) if stopped else init)
    if stopped:
        require_same_optimizer(stopped, config, run)
    dataset = _find_data(config, run, stopped)
    if is_process_zero():
        wait_for_all("the first has begun")
    with _blaming(option):
        if source:
            require_same_tokenizer(
                source.path / file_names.TOKENIZER, dataset.path / file_names.TOKENIZER
            )
        named = "tokenizer" in settings.get("data", {})
        if source and not stopped and isinstance(dataset, Dataset) and not named:
            require_same_characters(source, dataset, run)
        config = fit_vocabularies(config, dataset)
    job = Job(config, dataset, run, source, bool(stopped))
    for change in _changes(job):
        say(f"Changed since the run stopped: {change}")
    return job


@contextlib.contextmanager
def _blaming(option: str) -> Iterator[None]:
    """Put the `option` that the user typed, if any, in front of an error."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{option}: {error}" if option else str(error)) from None


def _open_init(init: str) -> ModelDirectory:
    """The model directory, or the run, to start from."""
    require(
        not Path(init).is_file(),
        "this is a file; jaxgpt-convert to-flax FILE DIR makes a model directory of a PyTorch "
        "checkpoint.",
    )
    return ModelDirectory(init)


def _pass_over_init(init: str, stopped: ModelDirectory, say: Say) -> None:
    """Say that a run resumes from its own checkpoint instead of `init`.

    The model that the run started from may be gone by now; any other `init` must exist.
    """
    started_from = stopped.about.get("run", {}).get("init")
    require(
        Path(init).is_dir() or init == started_from,
        f"{init} is not a directory. The run would resume from its own checkpoint, {stopped.path}, "
        "without it: leave --init out, or begin another run in another --run.dir.",
    )
    say(f"Resuming from {stopped.path}; --init {init} is not read again.")


def _default_layers(
    source: ModelDirectory, resumed: bool, settings: Sections, config_file: str | None, say: Say
) -> list[Sections]:
    """Layers of defaults for the settings that `settings` leaves out."""
    layers: list[Sections] = []
    if settings.get("run", {}).get("init"):
        layers.append(sections_of(source.config))
    if resumed:
        return [*layers, inherit.for_resuming(source, settings, bool(config_file))]
    layers.append(inherit.tokenizer_of(source))
    if not config_file:
        layers.append(inherit.for_fine_tuning(source, settings, say))
    return layers


def _changes(job: Job) -> list[str]:
    """Settings and data that differ from those of the earlier steps.

    The directory of a run, its trackers and its devices are not counted as changes.
    """
    if job.source is None or not (job.resumed or job.config.run.go_on):
        return []
    about: Mapping[str, Any] = job.about if job.resumed else inherit.recorded_settings(job.source)
    sections = {**job.config.sections(), "data_sha256": job.dataset.train_sha256}
    before, now = flatten(about), flatten(sections)
    return [
        f"{name.replace('/', '.')} was {before[name]} and is {value}"
        for name, value in now.items()
        if not name.startswith(("run/", "mesh/")) and name in before and before[name] != value
    ]


def _find_data(config: Config, run: Path, stopped: ModelDirectory | None) -> AnyData:
    """The data of a run: a prepared directory, or a source that is prepared once in the run."""
    path, own = Path(config.data.path), run / file_names.DATA
    open_data: Callable[[Path], AnyData] = open_pairs if config.encoder else open_dataset
    if (path / file_names.ABOUT).exists():
        return open_data(path)
    if not is_process_zero():
        return open_data(own)
    if own.exists():
        require(
            (own / file_names.ABOUT).exists(),
            f"{own} is where this run would prepare its data, but holds something else: move it "
            "away, or choose another --run.dir.",
        )
        file = (stopped.path if stopped else run) / file_names.CONFIG
        before = _prepared_from(read_json(file).get("data", {})) if file.exists() else None
        now = _prepared_from(dataclasses.asdict(config.data))
        if before == now:
            return open_data(own)
        require(
            not stopped,
            f"{run} was trained on the text of {before}, and the config says {now}. Leave it as it "
            "was; to train the same model on another text, begin another run with --init "
            f"{run}.",
        )
        directories.discard(own)
    return _prepare(config, own)


def _prepared_from(data: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `data` on which preparation depends; how batches are made is not among
    them."""
    return {name: value for name, value in data.items() if name != "pack"}


def _prepare(config: Config, own: Path) -> AnyData:
    """The data that `config` names, prepared in `own`."""
    source, tokenizer = [config.data.path], config.data.tokenizer
    if config.encoder is None:
        make = prepare_answers if recognise(source) else prepare
        return make(source, own, tokenizer=tokenizer)
    targets = config.data.target_tokenizer or None
    return prepare_pairs(source, own, tokenizer=tokenizer, target_tokenizer=targets)

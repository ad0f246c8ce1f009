"""Checks that a model, its data and the settings of a run fit together."""

import dataclasses
from pathlib import Path

from jaxgpt.config import Config, ModelConfig, OptimConfig, TrainConfig
from jaxgpt.data.pairs import PairDataset
from jaxgpt.data.tokens import Dataset
from jaxgpt.errors import UserError, require
from jaxgpt.file_names import DATA, TOKENIZER
from jaxgpt.storage.config_sections import sections_of
from jaxgpt.storage.model_directory import ModelDirectory

KINDS = {1: "a decoder", 2: "an encoder-decoder"}  # by the number of config sections
SECTIONS = {"optim": OptimConfig, "train": TrainConfig}
ROUNDED_UP = (
    128  # the most unused ids: vocabularies are often rounded up to a multiple of 64 or 128
)


def fit_vocabulary(model: ModelConfig, dataset: Dataset) -> ModelConfig:
    """`model` with the vocabulary of `dataset`, or with its own, which may be slightly larger."""
    return _fit_vocabulary(model, dataset.vocab_size, "model", dataset.path)


def _fit_vocabulary(model: ModelConfig, theirs: int, section: str, path: Path) -> ModelConfig:
    ours = model.vocab_size or theirs
    require(
        theirs <= ours < theirs + ROUNDED_UP,
        f"{section}.vocab_size is {ours}, but the data in {path} has a vocabulary of {theirs}. "
        "Prepare the data with the model's own tokenizer; or, for a new model, leave "
        f"{section}.vocab_size out.",
    )
    return dataclasses.replace(model, vocab_size=ours)


def fit_vocabularies(config: Config, dataset: Dataset | PairDataset) -> Config:
    """`config` with the vocabularies of `dataset`."""
    if not isinstance(dataset, PairDataset):
        return dataclasses.replace(config, model=fit_vocabulary(config.model, dataset))
    assert config.encoder is not None
    encoder, decoder = fit_both(config.encoder, config.model, dataset)
    return dataclasses.replace(config, encoder=encoder, model=decoder)


def fit_both(
    encoder: ModelConfig, decoder: ModelConfig, dataset: PairDataset
) -> tuple[ModelConfig, ModelConfig]:
    """Both sides with the vocabularies of `dataset`, or with their own, by `fit_vocabulary`'s
    rule."""
    source, target = dataset.source_vocab_size, dataset.target_vocab_size
    if encoder.shares_embedding:  # the target has the ids of the source, plus start and end
        source = target
    return (
        _fit_vocabulary(encoder, source, "encoder", dataset.path),
        _fit_vocabulary(decoder, target, "model", dataset.path),
    )


def require_same_tokenizer(ours: Path, data: Path) -> None:
    """Require that the tokenizer files of a model and of its data are equal, if both exist."""
    if ours.exists() and data.exists() and ours.read_bytes() != data.read_bytes():
        raise UserError(
            f"The model was trained with {ours}, but the data were prepared with {data}, and the "
            "two differ: the same ids would mean other text. Prepare the data again with "
            f"--tokenizer {ours}."
        )


def require_same_characters(source: ModelDirectory, dataset: Dataset, run: Path) -> None:
    """Require that a text prepared for `run` has as many characters as `source` has ids.

    This applies if `source` has no tokenizer, as nothing else says which id means which character.
    """
    if (source.path / TOKENIZER).exists() or dataset.path != run / DATA:
        return
    require(
        not (dataset.path / TOKENIZER).exists() or dataset.vocab_size == source.config.vocab_size,
        f"the model has no tokenizer, and its vocabulary is {source.config.vocab_size}, but the "
        f"text has {dataset.vocab_size} different characters: nothing says which id is which. "
        "Name the tokenizer that the model was trained with: --data.tokenizer FILE, a "
        "tokenizer.json or a list of characters as JSON.",
    )


def require_same_architecture(source: ModelDirectory, config: Config, name: str) -> None:
    """Require that `config` describes the model of `source`, called `name`; dropout may differ."""
    theirs, asked = sections_of(source.config), sections_of(config.architecture)
    require(
        theirs.keys() == asked.keys(),
        f"{name} holds {KINDS[len(theirs)]}, but the config describes {KINDS[len(asked)]}, which "
        "has a section [encoder].",
    )
    differing = [
        f"{_setting(section, field)} is {value} in {name} and {asked[section][field]} in the config"
        for section, fields in theirs.items()
        for field, value in fields.items()
        if field != "dropout"
        and asked[section][field] != value
        # A vocabulary that is left out comes from the data, and is checked once they are prepared.
        and not (field == "vocab_size" and not asked[section][field])
    ]
    require(
        not differing,
        f"The config describes another model than {name}: {'; '.join(differing)}. Set these as in "
        f"{name} (with --init it is enough to leave them out of [model]), or begin another run in "
        "another --run.dir.",
    )


def require_same_optimizer(stopped: ModelDirectory, config: Config, run: Path) -> None:
    """Require that the run resumes with the optimiser and the adapter settings of its
    checkpoint."""
    for section, field in (("optim", "name"), ("train", "lora_rank"), ("train", "lora_alpha")):
        now = getattr(getattr(config, section), field)
        # Checkpoints from versions without the setting have its present default.
        before = stopped.about[section].get(field, getattr(SECTIONS[section], field))
        require(
            now == before,
            f"{section}.{field} is {now}, but {stopped.path} was saved with {before}, and cannot "
            f"resume with another. Set --{section}.{field} {before}, or begin another run in "
            f"another --run.dir with --init {run}.",
        )


def _setting(section: str, field: str) -> str:
    return field if section == "model" else f"{section}.{field}"

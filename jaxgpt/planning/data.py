"""The facts about data that a plan needs: the vocabularies, and whether a batch has a mask."""

import contextlib
from pathlib import Path

from jaxgpt.config import Config
from jaxgpt.data.answers import recognise
from jaxgpt.data.kinds import data_kind
from jaxgpt.data.pairs import open_pairs
from jaxgpt.data.tokens import open_dataset
from jaxgpt.errors import UserError, require
from jaxgpt.file_names import ABOUT
from jaxgpt.training.compatibility import fit_vocabularies


def with_vocabulary_sizes(config: Config) -> Config:
    """`config` with the vocabularies of its data, if these are prepared."""
    path = Path(config.data.path)
    if (path / ABOUT).exists():
        return fit_vocabularies(config, open_pairs(path) if config.encoder else open_dataset(path))
    for section, model in (("model", config.model), ("encoder", config.encoder)):
        require(
            model is None or model.vocab_size > 0,
            f"{section}.vocab_size is left to the data, and {path} has not been prepared: prepare "
            f"it, or set --{section}.vocab_size N.",
        )
    return config


def of_answers(config: Config) -> bool:
    """Whether the data of `config` are prompts and answers; data that are absent count as text."""
    path = Path(config.data.path)
    if (path / ABOUT).exists():
        return data_kind(path) == "answers"
    with contextlib.suppress(UserError):
        return config.encoder is None and recognise([config.data.path])
    return False

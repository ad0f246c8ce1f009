"""The torch class to write a model for, if nobody names one. Opens no file."""

import contextlib
from collections.abc import Collection

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError

from .dialects import DIALECTS
from .extras.class_settings import class_settings
from .names.class_config import config_words
from .rows import move
from .rows.dialect import Dialect

# The dialects whose Hugging Face classes most other programs open, the plainest first.
WIDELY_OPENED = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gpt-neox", "gemma", "gemma2")


def choose(config: ModelConfig, paths: Collection[str]) -> Dialect:
    """The dialect whose class is most like the model of `config` with parameters at `paths`.

    The dialect differs from the model in the fewest fields. Ties are broken, in this order, by the
    fewest biases that the model lacks, by having no `twin`, and by not being a family.
    """
    parameters = set(paths)
    able = [dialect for dialect in DIALECTS.values() if can_hold(dialect, config, parameters)]
    if not able:
        raise UserError(
            "None of the supported classes can hold this model; --dialect NAME says what one of "
            "them lacks."
        )

    def distance(dialect: Dialect) -> tuple[int, int, bool, bool]:
        unlike = len(dialect.unlike(config))
        filled = len(move.filled(dialect, config, parameters))
        return unlike, filled, bool(dialect.twin), dialect.family

    return min(able, key=distance)


def can_hold(dialect: Dialect, config: ModelConfig, paths: set[str]) -> bool:
    """Whether files of `dialect` have a place for every parameter, and its class these sizes."""
    try:
        move.require_expressible(dialect, config, paths)
        class_settings(config, dialect)
    except UserError:
        return False
    width = config.model_dim
    # Classes with grouped queries read their sizes from a config.
    usual_sizes = config.num_heads * config.head_dim == width and config.mlp_dim == 4 * width
    return usual_sizes or dialect.family or (dialect.grouped and _has_folder(dialect, config))


def folders_for(config: ModelConfig, paths: Collection[str]) -> list[Dialect]:
    """The dialects whose Hugging Face class computes the model of `config`, the plainest first."""
    able = []
    for dialect in DIALECTS.values():
        if not dialect.hub or not _has_folder(dialect, config):
            continue
        with contextlib.suppress(UserError):
            move.require_expressible(dialect, config, set(paths))
            able.append(dialect)
    return sorted(able, key=lambda dialect: (*WIDELY_OPENED, dialect.name).index(dialect.name))


def _has_folder(dialect: Dialect, config: ModelConfig) -> bool:
    return dialect.hub is not None and not config_words(dialect, config)[1]

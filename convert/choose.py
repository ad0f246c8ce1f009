"""Chooses the torch class to write a model for, if the user names none. Opens no file."""

import contextlib
from collections.abc import Collection

from jaxgpt.errors import UserError
from jaxgpt.seq2seq_config import AnyConfig, Seq2SeqConfig

from .dialects import DIALECTS, PAIRS
from .extras.class_settings import class_settings
from .names.folder_config import config_words
from .rows import whole
from .rows.dialect import Dialect
from .rows.pair import AnyDialect, Pair

# The dialects whose Hugging Face classes most other programs support, the simplest first.
WIDELY_OPENED = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gpt-neox", "gemma", "gemma2")


def _registry(config: AnyConfig) -> Collection[AnyDialect]:
    """The dialects of models of the kind of `config`."""
    return PAIRS.values() if isinstance(config, Seq2SeqConfig) else DIALECTS.values()


def choose(config: AnyConfig, paths: Collection[str]) -> AnyDialect:
    """The dialect whose class is most like the model of `config` with parameters at `paths`.

    It differs from the model in the fewest fields. Of several, it has the fewest biases that the
    model lacks; then one without a `twin` comes first, and a family last.
    """
    parameters = set(paths)
    able = [dialect for dialect in _registry(config) if can_hold(dialect, config, parameters)]
    if not able:
        raise UserError(
            "None of the supported classes can hold this model; --dialect NAME says what one of "
            "them lacks."
        )

    def distance(dialect: AnyDialect) -> tuple[int, int, bool, bool]:
        unlike = len(dialect.unlike(config))
        filled = len(whole.filled(dialect, config, parameters))
        twin = isinstance(dialect, Dialect) and bool(dialect.twin)
        return unlike, filled, twin, dialect.family

    return min(able, key=distance)


def can_hold(dialect: AnyDialect, config: AnyConfig, paths: set[str]) -> bool:
    """Whether files of `dialect` have a place for every parameter, and its class can have these
    sizes."""
    try:
        whole.require_expressible(dialect, config, paths)
        class_settings(config, dialect)
    except UserError:
        return False
    if isinstance(config, Seq2SeqConfig) or isinstance(dialect, Pair):
        return True
    width = config.model_dim
    # Classes with grouped queries read their sizes from a config.
    usual_sizes = config.num_heads * config.head_dim == width and config.mlp_dim == 4 * width
    return usual_sizes or dialect.family or (dialect.grouped and _has_folder(dialect, config))


def folders_for(config: AnyConfig, paths: Collection[str]) -> list[AnyDialect]:
    """The dialects whose Hugging Face class computes the model of `config`, the simplest first."""
    able = []
    for dialect in _registry(config):
        if not dialect.hub or not _has_folder(dialect, config):
            continue
        with contextlib.suppress(UserError):
            whole.require_expressible(dialect, config, set(paths))
            able.append(dialect)
    return sorted(able, key=lambda dialect: (*WIDELY_OPENED, dialect.name).index(dialect.name))


def _has_folder(dialect: AnyDialect, config: AnyConfig) -> bool:
    return dialect.hub is not None and not config_words(dialect, config)[1]

"""The torch class to write a model for, where nobody names one. Knows no file, and no values."""

from collections.abc import Collection

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError

from .dialects import DIALECTS
from .extras import extras
from .rows import move
from .rows.dialect import Dialect


def choose(config: ModelConfig, paths: Collection[str]) -> Dialect:
    """The dialect whose class differs from the model in the fewest fields, then in the fewest biases; of equals one
    whose files are not another's twins, and one class before a family. UserError where none can hold the model."""
    able = [dialect for dialect in DIALECTS.values() if holds(dialect, config, set(paths))]
    if not able:
        raise UserError(
            "No class that is known here can hold this model; --dialect NAME says what one of them lacks."
        )

    def distance(dialect: Dialect) -> tuple[int, int, bool, bool]:
        filled = move.filled(dialect, config, set(paths))
        return (
            len(dialect.unlike(config)),
            len(filled),
            bool(dialect.twin),
            dialect.family,
        )

    return min(able, key=distance)


def holds(dialect: Dialect, config: ModelConfig, paths: set[str]) -> bool:
    """Whether the files of `dialect` have a place for every parameter, and its class can have these sizes."""
    usual_sizes = (
        config.num_heads * config.head_dim == config.model_dim
        and config.mlp_dim == 4 * config.model_dim
    )
    try:
        move.require_expressible(dialect, config, paths)
        extras.words_of(config, dialect)
    except UserError:
        return False
    return usual_sizes or dialect.family

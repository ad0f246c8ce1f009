"""The torch class to write a model for, if nobody names one. Opens no file."""

from collections.abc import Collection

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError

from .dialects import DIALECTS
from .extras.class_settings import class_settings
from .rows import move
from .rows.dialect import Dialect


def choose(config: ModelConfig, paths: Collection[str]) -> Dialect:
    """The dialect whose class is most like the model of `config` with parameters at `paths`.

    It differs in the fewest fields, then in the fewest biases; among equals it is one whose files
    are not another's twins, and one class rather than a family.
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
    return usual_sizes or dialect.family or dialect.grouped

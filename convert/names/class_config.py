"""Writes the config.json of a Hugging Face class by the table that `class_words` reads it by.

What is written is read again: where that gives another value, the class does not support the field.
"""

import math
from collections.abc import Collection
from typing import Any

from jaxgpt.config import ModelConfig

from ..rows.dialect import Dialect
from ..rows.fields import ABSENT_NORMS, PRESENCE, is_relevant
from ..rows.hub import Hub
from ..rows.kinds import Row
from .class_words import NULLABLE
from .config_words import FIELD, VALUES, fits
from .idioms import scale_of

PRESENT = ("attention_out", "head_bias", "cross_attention")
Supported = dict[str, list[Any]]  # field of ModelConfig -> the values that the class can have


def config_words(
    dialect: Dialect, config: ModelConfig, irrelevant: Collection[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """The content of config.json, and the fields of the model that the class does not support.

    Leaves out the fields that are `irrelevant`.
    """
    hub = dialect.hub
    assert hub is not None
    written, supported = _written(dialect, hub, config)
    odd = hub.even and config.model_dim % config.num_heads != 0
    uneven = f"num_heads {config.num_heads} does not divide model_dim {config.model_dim}"
    problems = [f"{uneven}, which {hub.architecture} requires"] if odd else []
    problems += [
        f"{field} is {getattr(config, field)!r}, but {hub.architecture} has "
        f"{' or '.join(map(repr, values))}"
        for field, values in supported.items()
        if field not in irrelevant
        and is_relevant(field, vars(config))
        and not any(_is_same(field, config, value) for value in values)
    ]
    return written, problems


def lacking_biases(dialect: Dialect, config: ModelConfig) -> set[str]:
    """The fields of biases that the class lacks according to the config.json that is written."""
    hub = dialect.hub
    assert hub is not None
    _, supported = _written(dialect, hub, config)
    return {
        field for field in PRESENCE if field.endswith("bias") and supported.get(field) == [False]
    }


def _written(dialect: Dialect, hub: Hub, config: ModelConfig) -> tuple[dict[str, Any], Supported]:
    (kind,) = dialect.says["model_type"]
    written: dict[str, Any] = {"architectures": [hub.architecture], "model_type": kind}
    supported = {field: [value] for field, value in _as_the_class_is(dialect, config).items()}
    for word in hub.words.split():
        spelled, choices = _spell(dialect, word, config)
        written[word] = spelled
        supported |= choices
    known = dict(vars(config))
    for idiom in hub.idioms:
        written |= idiom.write(config)
        stated = idiom.read(written, known)
        known |= stated
        supported |= {field: [value] for field, value in stated.items()}
    written |= {word: written[first] for word, first in hub.repeated.items()}
    return written, supported


def _spell(dialect: Dialect, word: str, config: ModelConfig) -> tuple[Any, Supported]:
    """The value of `word` for the model of `config`, and the values of fields that it can state."""
    own, field = dialect.says.get(word, {}), FIELD.get(word, "")
    # Reversed, so that the first spelling of a value wins: every class knows that one.
    first = {value: spelled for spelled, value in reversed(VALUES.get(field, {}).items())}
    unknown = {*own, *(dialect.hub.lacks.split() if dialect.hub else ())}
    usual = {spelled: {field: value} for value, spelled in first.items() if spelled not in unknown}
    choices: Supported = {}
    for meant in (*own.values(), *usual.values()):
        for each, value in meant.items():
            if value not in choices.setdefault(each, []):
                choices[each].append(value)
    for spelled, meant in {**own, **usual}.items():
        if all(getattr(config, each) == value for each, value in meant.items()):
            return spelled, choices
    value = getattr(config, field, None)
    if not choices and (fits(field, value) or (value is None and field in NULLABLE)):
        choices = {field: [value]}
    return value, choices


def _as_the_class_is(dialect: Dialect, config: ModelConfig) -> dict[str, Any]:
    """Values of the fields that the class implies if its config.json does not state them."""
    (implied,) = dialect.says["model_type"].values()
    paths = {row.flax.name for row in dialect.rows if isinstance(row, Row)}
    width, heads = config.model_dim, config.num_heads
    normed = ABSENT_NORMS["final_norm"][1] in paths or not implied.get("norm_weight", True)
    return {
        **implied,
        "head_dim": width / heads if width % heads else width // heads,
        "mlp_dim": 4 * width,
        "num_kv_heads": heads,
        "final_norm": normed and config.norm != "post",
        "positions": implied.get("positions", _table(config)),
        **dialect.certain,
        **{field: PRESENCE[field] in paths for field in PRESENT},
    }


def _table(config: ModelConfig) -> str:
    """The positions of a class with a table of them, which can be one of fixed sinusoids."""
    return config.positions if config.position_rows else "learned"


def _is_same(field: str, config: ModelConfig, value: Any) -> bool:
    """Whether the class with `value` computes what the model of `config` does.

    A bias that the model lacks is written as zeros.
    """
    ours = getattr(config, field)
    if field == "attention_scale" and isinstance(value, float):
        return math.isclose(scale_of(config), value, rel_tol=1e-12)
    if field.endswith("_bias") and ours is False and field != "head_bias":
        return True
    return bool(ours == value)

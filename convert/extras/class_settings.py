"""The settings in a checkpoint from which programs of its class build the model."""

from typing import Any

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError, in_a_row

from ..rows.fields import FIELDS
from ..rows.pair import AnyDialect


def class_settings(config: Any, dialect: AnyDialect) -> dict[str, Any]:
    """The settings with which the class of `dialect` computes the model of `config`.

    Raises UserError if there are none.
    """
    settings, sizes = {}, {}
    for word, fields in dialect.container.words.items():
        values = {field: getattr(config, field) for field in fields.split()}
        if len(set(values.values())) > 1:
            differing = in_a_row([f"{field} is {value}" for field, value in values.items()], ", ")
            raise UserError(
                f"{dialect.about} has one setting, {word}, for fields that differ in this model: "
                f"{differing}."
            )
        settings[word] = next(iter(values.values()))
        if fields in FIELDS.values():
            sizes[fields] = settings[word]
    if dialect.container.mlp_multiple:
        settings[dialect.container.mlp_multiple] = sizes["mlp_dim"] = _multiple(config, dialect)
    if settings:
        _require_derived(config, dialect, ModelConfig(**sizes))
    return settings


def _multiple(config: ModelConfig, dialect: AnyDialect) -> int:
    """The value of the class's setting `mlp_multiple` that gives its MLPs the width of `config`.

    The class rounds 8/3 of model_dim up to a multiple of it, so mlp_dim itself is one.
    """
    least = 8 * config.model_dim // 3
    if config.mlp_dim < least:
        raise UserError(
            f"{dialect.about} cannot have mlp_dim = {config.mlp_dim}: it is at least {least}, "
            f"which is 8/3 of model_dim = {config.model_dim}."
        )
    return config.mlp_dim


def _require_derived(config: ModelConfig, dialect: AnyDialect, derived: ModelConfig) -> None:
    """Require that `config` has the sizes of `derived`, which the class computes from others."""
    for field in FIELDS.values():
        size, usual = getattr(config, field), getattr(derived, field)
        if size != usual:
            raise UserError(
                f"{dialect.about} cannot have {field} = {size}: with the other sizes it is {usual}."
            )

"""Writes the extras of a model directory to a checkpoint file."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxgpt.config import Config, DataConfig, OptimConfig, RunConfig, TrainConfig
from jaxgpt.errors import UserError
from jaxgpt.file_names import CONFIG
from jaxgpt.settings import build
from jaxgpt.storage.model_directory import ModelDirectory, Moments
from jaxgpt.training.optimizer import make_schedule

from ..rows.pair import AnyDialect
from ..rows.whole import express
from . import adamw
from .class_settings import class_settings
from .origin import Origin
from .param_groups import Group, as_settings, leaves, renewed, usual_groups
from .read_extras import STEPS
from .torch_adamw import NotResumable

LOSSES = ("best_val_loss", "val_loss")
UNMEASURED = 1e9  # nanoGPT's initial best loss


def as_the_file_had(opened: ModelDirectory, origin: Origin) -> dict[Any, Any]:
    """The extras of the file `origin`, updated where training has changed them."""
    extras = _plain(opened, origin)
    recorded = origin.optimizer
    if recorded is None:
        return extras
    dialect, groups = express(origin.dialect, opened.config, opened.paths), recorded.groups
    if _trained(opened):
        parameters = leaves(dialect, opened.config)
        groups = renewed(groups, parameters, *_settings(opened, origin))
    moments = _moments(opened)
    extras[recorded.key] = _optimizer(opened, dialect, groups, moments, recorded.untouched)
    return extras


def _trained(opened: ModelDirectory) -> bool:
    """Whether the model was trained here, after it was converted."""
    return opened.about.get("step") is not None


def _plain(opened: ModelDirectory, origin: Origin) -> dict[Any, Any]:
    """The plain values of the file; after training only those that are still true."""
    if not _trained(opened):
        return dict(origin.extras)
    step, loss = opened.about["step"], opened.about.get("val_loss")
    current = dict.fromkeys(STEPS, step) | dict.fromkeys(LOSSES, loss)
    return {
        name: current.get(name, value)
        for name, value in origin.extras.items()
        if isinstance(value, dict) or name in current
    }


def as_the_class_does(
    opened: ModelDirectory, dialect: AnyDialect, origin: Origin | None
) -> dict[Any, Any]:
    """The extras that programs of the class of `dialect` save with the weights."""
    container = dialect.container
    moments = _moments(opened)
    step = opened.about.get("step", moments.step if moments else 0)
    values = {
        container.settings: class_settings(opened.config, dialect),
        container.step: step,
        container.loss: opened.about.get("val_loss") or UNMEASURED,
    }
    dialect = express(dialect, opened.config, opened.paths)
    groups = _usual_groups(opened, dialect, origin)
    return {
        **_sections(opened, dialect, origin),
        container.optimizer: _optimizer(opened, dialect, groups, moments),
        **{name: value for name, value in values.items() if name},
    }


def _sections(
    opened: ModelDirectory, dialect: AnyDialect, origin: Origin | None
) -> dict[Any, dict[Any, Any]]:
    """The nested settings of the file that the model came from, if it was of the same class."""
    if origin is None or origin.dialect.name != dialect.name:
        return {}
    values = _plain(opened, origin)
    return {name: value for name, value in values.items() if isinstance(value, dict)}


def _usual_groups(
    opened: ModelDirectory, dialect: AnyDialect, origin: Origin | None
) -> tuple[Group, ...]:
    """The groups that programs of the class use, with the settings of the run."""
    optim, rate = _settings(opened, origin)
    parameters = leaves(dialect, opened.config)
    kind = dialect.container.groups or optim.decay
    groups = usual_groups(parameters, kind, adamw.usual_settings())
    return renewed(groups, parameters, optim, rate)


def _settings(opened: ModelDirectory, origin: Origin | None) -> tuple[OptimConfig, float]:
    """The settings of the optimiser, and its learning rate at this step."""
    about = opened.about
    if "optim" in about:
        return _settings_of_run(about, str(opened.path / CONFIG))
    if origin is None or origin.optimizer is None:
        return OptimConfig(), OptimConfig().learning_rate
    parameters = leaves(express(origin.dialect, opened.config, opened.paths), opened.config)
    try:
        settings = as_settings(origin.optimizer.groups, parameters)
        optim = OptimConfig(**settings, final_learning_rate=0.0)
    except NotResumable as error:
        raise UserError(
            f"{opened.path}: the settings of its file's optimiser have no counterpart here: "
            f"{error}. Write the file as it was, without --dialect, or leave the optimiser out "
            "with --weights-only."
        ) from None
    return optim, optim.learning_rate


def _settings_of_run(about: Mapping[str, Any], where: str) -> tuple[OptimConfig, float]:
    optim = build(OptimConfig, about["optim"], where)
    train = build(TrainConfig, about["train"], where)
    config = Config(DataConfig("-"), RunConfig("-"), optim=optim, train=train)
    return optim, float(make_schedule(config)(about["step"]))


def _moments(opened: ModelDirectory) -> Moments | None:
    if opened.about.get("optim", {}).get("ema"):
        raise UserError(
            f"{opened.path} holds an average of the weights, and its optimiser belongs to the "
            "weights themselves. Leave it out with --weights-only."
        )
    return opened.moments()


def _optimizer(
    opened: ModelDirectory,
    dialect: AnyDialect,
    groups: Sequence[Group],
    moments: Moments | None,
    untouched: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The optimiser as torch stores it; without `moments`, one that has made no step."""
    optimizer = adamw.Optimizer(moments or _none(opened), tuple(groups), untouched)
    if moments is None:
        names = tuple(name for group in groups for name in group.names)
        optimizer = replace(optimizer, untouched=names)
    return adamw.write(optimizer, dialect, opened.config)


def _none(opened: ModelDirectory) -> Moments:
    """Moments with the right shapes, for an optimiser that stores none."""
    return Moments(0, 0, opened.params(), opened.params())

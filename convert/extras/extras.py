"""What lies beside the weights in a torch file, in and out: the optimiser, settings, counters. Knows no tensor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jaxgpt.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from jaxgpt.errors import UserError, in_a_row
from jaxgpt.settings import build
from jaxgpt.storage.model_directory import ModelDirectory, Moments
from jaxgpt.training.optimizer import make_schedule

from ..dialects import DIALECTS
from ..rows.dialect import FIELDS, Dialect
from ..rows.resolve import express
from . import adamw as optimizer
from . import extras_json as beside
from .param_groups import Group, Unlike, as_settings, leaves, made, renewed
from .recipe import Recipe
from .recipe import read as read_recipe

STEPS = ("iter_num", "global_step")  # what people call the number of steps; nanoGPT's, Lightning's
LOSSES = ("best_val_loss", "val_loss")


@dataclass(frozen=True)
class Beside:
    """What goes along with the weights, and why other things do not."""

    optimizer: optimizer.Optimizer | None
    key: str  # under which it lay
    kept: list[Any]  # plain values, as JSON
    left: Mapping[str, str]
    settings: Mapping[str, Any] = field(
        default_factory=dict
    )  # of the optimiser, in the words of OptimConfig
    recipe: Recipe = field(default_factory=Recipe)

    @property
    def about(self) -> dict[str, Any]:
        """For config.json."""
        plain = {"beside": self.kept, "settings": self.recipe.settings}
        if not self.optimizer:
            return plain
        groups = [
            {"names": group.names, "settings": beside.encode(group.settings)}
            for group in self.optimizer.groups
        ]
        return {
            **plain,
            "optimizer": {"key": self.key, "groups": groups, "untouched": self.optimizer.untouched},
        }

    @property
    def state(self) -> dict[str, Any] | None:
        """For a model directory, from which training goes on."""
        if not self.optimizer:
            return None
        step, updates, mu, nu = self.optimizer.moments
        return {
            "step": np.int32(step),
            "optimizer": {"count": np.int32(updates), "mu": mu, "nu": nu},
        }


def read(
    extras: Mapping[str, Any],
    dialect: Dialect,
    config: ModelConfig,
    order: Sequence[str],
    path: object,
) -> Beside:
    """`order` is that in which the file lists its tensors."""
    keys = optimizer.find(extras)
    kept, left = beside.split({name: value for name, value in extras.items() if name not in keys})
    reasons = dict.fromkeys(left, "it holds more than numbers and words")
    found, settings = None, {}
    if len(keys) > 1:
        reasons |= dict.fromkeys(keys, "there is more than one optimiser")
    elif keys:
        try:
            found = optimizer.read(extras[keys[0]], dialect, config, order)
            settings = as_settings(found.groups, leaves(dialect, config, order))
        except Unlike as unlike:
            reasons["what its optimiser was set to" if found else keys[0]] = str(unlike)
        except UserError as error:
            raise UserError(
                f"{path}: the optimiser in it, {keys[0]}, does not fit: {error}. --weights-only leaves it behind."
            ) from None
    steps = [
        extras[name]
        for name in STEPS
        if type(extras.get(name)) is int and 0 <= extras[name] < 2**31
    ]
    if found and steps:
        found = replace(found, moments=found.moments._replace(step=steps[0]))
    recipe = read_recipe(extras, _with_decay(settings, found))
    return Beside(found, keys[0] if found else "", kept, reasons, settings, recipe)


def _with_decay(
    settings: Mapping[str, Any], found: optimizer.Optimizer | None
) -> Mapping[str, Any]:
    """`settings` of an optimiser; one with a single group can decay all of its parameters alone, or none."""
    return (
        {"decay": "all", **settings} if found and settings and len(found.groups) == 1 else settings
    )


@dataclass(frozen=True)
class Origin:
    """The file that a model came from, as config.json remembers it."""

    dialect: Dialect  # in the file's own words
    nested: str
    prefix: str
    beside: list[Any]
    optimizer: Mapping[str, Any]
    known: frozenset[str]  # fields of the model that were read of that file, or given by a person

    def known_of(self, dialect: Dialect) -> frozenset[str]:
        """Fields that are certain of the class of `dialect`: none if the file is of another one."""
        return self.known if dialect.name == self.dialect.name else frozenset()

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(
            Group(tuple(g["names"]), beside.decode(g["settings"])) for g in self.optimizer["groups"]
        )

    @staticmethod
    def of(opened: ModelDirectory) -> "Origin | None":
        source = opened.about.get("source") or {}
        if "rows" not in source:
            return None
        usual = DIALECTS.get(source.get("dialect", ""), Dialect("", "its structure alone", ()))
        try:
            container = (
                source["nested"],
                source["prefix"],
                source.get("beside", []),
                source.get("optimizer", {}),
            )
            fields = opened.about.get("fields", {})
            known = frozenset({**fields.get("read", {}), **fields.get("given", {})})
            return Origin(usual.reread(source), *container, known)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{opened.path / 'config.json'}: its source cannot be read ({error!r}); give --dialect."
            ) from None


def as_it_was(opened: ModelDirectory, origin: Origin) -> dict[str, Any]:
    """What lay beside the weights of that file; after training, with what training changed."""
    values = dict(beside.decode(pair) for pair in origin.beside)
    step, loss = opened.about.get("step"), opened.about.get("val_loss")
    trained = step is not None
    if trained:  # other numbers and lists were of the training before
        values = {
            name: value
            for name, value in values.items()
            if isinstance(value, dict) or name in STEPS + LOSSES
        }
        values |= dict.fromkeys(values.keys() & set(STEPS), step)
        values |= dict.fromkeys(values.keys() & set(LOSSES), loss)
    if origin.optimizer:
        dialect, groups = express(origin.dialect, opened.paths, opened.config.tied), origin.groups
        if trained:
            groups = renewed(groups, leaves(dialect, opened.config), *_settings(opened, origin))
        untouched = tuple(origin.optimizer["untouched"])
        values[origin.optimizer["key"]] = _optimizer(
            opened, dialect, groups, _moments(opened), untouched
        )
    return values


def as_its_class_does(
    opened: ModelDirectory, dialect: Dialect, origin: Origin | None
) -> dict[str, Any]:
    """What people who use this class save beside the weights."""
    container, config = dialect.container, opened.config
    dialect = express(dialect, opened.paths, config.tied)
    known = leaves(dialect, config)
    optim, rate = _settings(opened, origin)
    usual = optimizer.usual_settings()
    fresh = [Group(group.names, usual) for group in made(known, container.groups or optim.decay)]
    groups = renewed(fresh, known, optim, rate)
    moments = _moments(opened)
    loss = opened.about.get("val_loss") or 1e9  # as nanoGPT's own begins
    step = opened.about.get("step", moments.step if moments else 0)
    named = {
        container.settings: words_of(config, dialect),
        container.step: step,
        container.loss: loss,
    }
    written = {container.optimizer: _optimizer(opened, dialect, groups, moments)}
    same = origin is not None and origin.dialect.name == dialect.name
    kept = as_it_was(opened, replace(origin, optimizer={})) if origin and same else {}
    return (
        {name: value for name, value in kept.items() if isinstance(value, dict)}
        | written
        | {name: value for name, value in named.items() if name}
    )


def _settings(opened: ModelDirectory, origin: Origin | None) -> tuple[OptimConfig, float]:
    """Of the optimiser, and the learning rate now."""
    about, where = opened.about, str(opened.path / "config.json")
    if "optim" in about:
        optim, train = (
            build(OptimConfig, about["optim"], where),
            build(TrainConfig, about["train"], where),
        )
        config = Config(DataConfig("-"), RunConfig("-"), optim=optim, train=train)
        return optim, float(make_schedule(config)(about["step"]))
    if not (origin and origin.optimizer):
        return OptimConfig(), OptimConfig().learning_rate
    known = leaves(express(origin.dialect, opened.paths, opened.config.tied), opened.config)
    try:
        optim = OptimConfig(**as_settings(origin.groups, known), final_learning_rate=0.0)
    except Unlike as unlike:
        raise UserError(
            f"{opened.path}: what the optimiser of its file was set to has no words here: {unlike}. Write the "
            "file as it was, without --dialect, or without the optimiser, with --weights-only."
        ) from None
    return optim, optim.learning_rate


def _moments(opened: ModelDirectory) -> Moments | None:
    if opened.about.get("optim", {}).get("ema"):
        raise UserError(
            f"{opened.path} holds the average of the weights that its optimiser went with, so that the two do not go "
            "together. Set --weights-only."
        )
    return opened.moments()


def _optimizer(
    opened: ModelDirectory,
    dialect: Dialect,
    groups: Sequence[Group],
    moments: Moments | None,
    untouched: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Without moments it is one that has not begun."""
    if moments is None:
        untouched = tuple(name for group in groups for name in group.names)
        moments = Moments(0, 0, opened.params(), opened.params())
    return optimizer.write(
        optimizer.Optimizer(moments, tuple(groups), untouched), dialect, opened.config
    )


def words_of(config: ModelConfig, dialect: Dialect) -> dict[str, Any]:
    """The settings of the class; it computes the others from these."""
    words = {}
    for word, fields in dialect.container.words.items():
        values = {field: getattr(config, field) for field in fields.split()}
        if len(set(values.values())) > 1:
            held = in_a_row([f"{field} is {value}" for field, value in values.items()], ", ")
            raise UserError(
                f"{dialect.about} has one word, {word}, for what differs in this model: {held}."
            )
        words[word] = next(iter(values.values()))
    said = {
        field: words[word]
        for word, field in dialect.container.words.items()
        if field in FIELDS.values()
    }
    for name, usual in vars(ModelConfig(**said)).items():
        if words and name in FIELDS.values() and usual != getattr(config, name):
            raise UserError(
                f"{dialect.about} cannot have {name} = {getattr(config, name)}: with the other sizes it is {usual}."
            )
    return words

"""Reads the extras of a checkpoint file into a model directory: optimiser, counters, ..."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jaxgpt.errors import UserError, in_a_row
from jaxgpt.seq2seq_config import AnyConfig

from ..rows.pair import AnyDialect
from . import adamw, plain_values, recipe
from .adamw import Optimizer
from .param_groups import Leaves, as_settings, leaves
from .recipe import Recipe
from .torch_adamw import MOST_STEPS, NotResumable, find

# Names of the number of steps so far: nanoGPT's and Lightning's.
STEPS = ("iter_num", "global_step")
NOT_PLAIN = "it holds more than numbers and words"


@dataclass(frozen=True)
class Extras:
    """The extras converted along with the weights, and why the rest is not."""

    optimizer: Optimizer | None = None
    key: Any = ""  # the key of the optimiser in the file
    settings: Mapping[str, Any] = field(default_factory=dict)  # of it, as fields of OptimConfig
    plain: Sequence[Any] = ()  # plain values as pairs of name and value, in JSON
    left: Mapping[str, str] = field(default_factory=dict)  # name -> why it is left out
    recipe: Recipe = field(default_factory=Recipe)

    @property
    def about(self) -> dict[str, Any]:
        """The entries of config.json from which the extras can be written back."""
        about = {"beside": self.plain, "settings": self.recipe.settings}
        if not self.optimizer:
            return about
        groups = [
            {"names": group.names, "settings": plain_values.encode(group.settings)}
            for group in self.optimizer.groups
        ]
        untouched = self.optimizer.untouched
        return {**about, "optimizer": {"key": self.key, "groups": groups, "untouched": untouched}}

    @property
    def state(self) -> dict[str, Any] | None:
        """The optimiser's state, from which training resumes; None without an optimiser."""
        if not self.optimizer:
            return None
        step, updates, mu, nu = self.optimizer.moments
        return {
            "step": np.int32(step),
            "optimizer": {"count": np.int32(updates), "mu": mu, "nu": nu},
        }


def read(
    stored: Mapping[Any, Any],
    dialect: AnyDialect,
    config: AnyConfig,
    order: Sequence[str],
    path: object,
) -> Extras:
    """The extras `stored` in the file `path`, which lists its tensors in `order`."""
    keys = find(stored)
    plain, odd = plain_values.split(
        {name: value for name, value in stored.items() if name not in keys}
    )
    extras = Extras(plain=plain, left=dict.fromkeys(odd, NOT_PLAIN))
    if len(keys) > 1:
        extras = _without(extras, keys, "there is more than one optimiser")
    elif keys:
        (key,) = keys
        try:
            optimizer = _optimizer(stored, key, dialect, config, order)
            extras = replace(extras, optimizer=optimizer, key=key)
        except NotResumable as error:
            extras = _without(extras, keys, str(error))
        except UserError as error:
            raise UserError(
                f"{path}: the optimiser in it, {in_a_row([str(key)])}, does not fit: {error}. "
                "--weights-only leaves it out."
            ) from None
    extras = _with_settings(extras, leaves(dialect, config, order))
    return replace(extras, recipe=recipe.read(stored, extras.settings))


def _without(extras: Extras, names: Sequence[Any], why: str) -> Extras:
    """`extras` with a note on why `names` are left out."""
    return replace(extras, left={**extras.left, **{str(name): why for name in names}})


def _optimizer(
    stored: Mapping[Any, Any],
    key: Any,
    dialect: AnyDialect,
    config: AnyConfig,
    order: Sequence[str],
) -> Optimizer:
    """The optimiser under `key`, at the step that the file counts."""
    optimizer = adamw.read(stored[key], dialect, config, order)
    steps = [stored[name] for name in STEPS if _is_count(stored.get(name))]
    if not steps:
        return optimizer
    return replace(optimizer, moments=optimizer.moments._replace(step=steps[0]))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST_STEPS


def _with_settings(extras: Extras, parameters: Leaves) -> Extras:
    """`extras` with the settings of its optimiser, if OptimConfig has fields for them."""
    if not extras.optimizer:
        return extras
    groups = extras.optimizer.groups
    try:
        settings = as_settings(groups, parameters)
    except NotResumable as error:
        return _without(extras, ["the setup of its optimiser"], str(error))
    if len(groups) == 1:  # such a kernel decays as a whole or not at all, even if the decay is 0
        settings = {"decay": "all", **settings}
    return replace(extras, settings=settings)

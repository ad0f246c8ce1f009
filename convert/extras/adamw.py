"""Converts torch's AdamW to optax's and back: moments are converted by the same rows as weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxgpt.errors import UserError, in_a_row
from jaxgpt.pytree import Tree
from jaxgpt.seq2seq_config import AnyConfig
from jaxgpt.storage.model_directory import Moments

from ..files.torch_tensors import aliasing, read_from_file
from ..rows import whole
from ..rows.kinds import POSITIONS, Scaled
from ..rows.pair import AnyDialect, sides
from . import torch_adamw
from .adamw_keys import GROUPS, MOMENTS, NUMBERS, STATE, STEP
from .param_groups import Group, leaves, named
from .torch_adamw import NotResumable, TorchAdamW


@dataclass(frozen=True)
class Optimizer:
    """The moments of a model, and torch's groups of its parameters."""

    moments: Moments
    groups: tuple[Group, ...]
    untouched: tuple[str, ...] = ()  # parameters without a gradient so far, and without moments


def read(
    stored: Mapping[Any, Any], dialect: AnyDialect, config: AnyConfig, order: Sequence[str]
) -> Optimizer:
    """The optimiser in `stored`, for a model whose tensors the file lists in `order`."""
    if any(isinstance(row, Scaled) for side in sides(dialect, config) for row in side.dialect.rows):
        raise NotResumable("it trained a table that the class multiplies by a factor")
    if shared := whole.repeated(dialect, config):
        raise NotResumable(f"it trained {shared[0]}, of which the model has several copies, as one")
    adamw = torch_adamw.parse(stored)
    shapes = _shapes(dialect, config)
    groups = _groups(adamw, dialect, config, order)
    names = [name for group in groups for name in group.names]
    by_name = {
        name: adamw.moments[number]
        for name, number in zip(names, adamw.numbers, strict=True)
        if number in adamw.moments
    }

    def tree(key: str) -> Tree:
        arrays = {name: read_from_file(moments.tensors[key]) for name, moments in by_name.items()}
        dtype = np.result_type(*arrays.values()) if arrays else np.dtype(np.float32)

        def moment(name: str) -> np.ndarray:
            return arrays[name] if name in arrays else np.zeros(shapes[name], dtype)

        return whole.to_flax(dialect, config, moment)

    moments = Moments(adamw.step, adamw.step, **{own: tree(key) for key, own in MOMENTS.items()})
    return Optimizer(moments, groups, tuple(name for name in names if name not in by_name))


def _groups(
    adamw: TorchAdamW, dialect: AnyDialect, config: AnyConfig, order: Sequence[str]
) -> tuple[Group, ...]:
    """The groups of `adamw` by name; NotResumable if it trains all parameters but positions."""
    parameters, shapes = leaves(dialect, config, order), _shapes(dialect, config)
    try:
        return named(adamw, parameters, shapes)
    except UserError as error:
        problem = error
    weights = whole.weights(dialect, config)
    tables = [each.torch for each in weights if each.flax.endswith(POSITIONS)]
    rest = {name: kind for name, kind in parameters.items() if name not in tables}
    try:
        named(adamw, rest, shapes)
    except UserError:
        raise problem from None
    listed = in_a_row([name for name in parameters if name in tables], " and ")
    raise NotResumable(f"it does not train {listed}, the positions, and this model would")


def _shapes(dialect: AnyDialect, config: AnyConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of the torch class, by name."""
    return {weight.torch: weight.shape for weight in whole.weights(dialect, config)}


def usual_settings() -> dict[str, Any]:
    """The default settings of torch's AdamW, for groups that do not come from a file."""
    import torch

    group = torch.optim.AdamW([torch.zeros(1)]).state_dict()[GROUPS][0]
    return {key: value for key, value in group.items() if key != NUMBERS}


def write(optimizer: Optimizer, dialect: AnyDialect, config: AnyConfig) -> dict[str, Any]:
    """The state dict for `load_state_dict` of an AdamW with the groups of `optimizer`.

    The groups keep exactly their own settings, because torch's Adam would compute something else if
    `decoupled_weight_decay` were among them.
    """
    moments = {
        key: whole.to_torch(dialect, config, getattr(optimizer.moments, own))
        for key, own in MOMENTS.items()
    }
    names = [name for group in optimizer.groups for name in group.names]
    return {
        STATE: {
            number: _entry(
                optimizer.moments.updates, {key: tree[name] for key, tree in moments.items()}
            )
            for number, name in enumerate(names)
            if name not in optimizer.untouched
        },
        GROUPS: _numbered(optimizer.groups),
    }


def _entry(updates: int, moments: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The state of one parameter; a moment is copied, as it may be a view of a larger array."""
    import torch

    tensors = {key: aliasing(np.array(moment)) for key, moment in moments.items()}
    return {STEP: torch.tensor(float(updates)), **tensors}


def _numbered(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The groups as torch stores them, with consecutive numbers instead of names."""
    numbered: list[dict[str, Any]] = []
    start = 0
    for group in groups:
        end = start + len(group.names)
        numbered.append({**group.settings, NUMBERS: list(range(start, end))})
        start = end
    return numbered

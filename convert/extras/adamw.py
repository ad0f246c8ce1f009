"""torch's AdamW and its moments, carried by the rows that carry the weights. Knows no file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError, in_a_row
from jaxgpt.pytree import Tree
from jaxgpt.storage.model_directory import Moments

from ..files import torchfile
from ..rows import move
from ..rows.dialect import Dialect
from . import extras_json
from .param_groups import Group, Unlike, leaves, named

MOMENTS = {"exp_avg": "mu", "exp_avg_sq": "nu"}


@dataclass(frozen=True)
class Optimizer:
    moments: Moments
    groups: tuple[Group, ...]
    untouched: tuple[
        str, ...
    ] = ()  # parameters that never had a gradient, of which torch holds no moments


def find(extras: Mapping[str, Any]) -> list[str]:
    """Under which keys beside the weights there is one."""
    return [
        key
        for key, value in extras.items()
        if isinstance(value, dict) and {"state", "param_groups"} <= set(value)
    ]


def read(
    held: Mapping[str, Any], dialect: Dialect, config: ModelConfig, order: Sequence[str]
) -> Optimizer:
    """Of a model whose tensors a file lists in this order."""
    _require_adamw(held)
    state, sizes = held["state"], move.sizes_of(config)
    shapes = {
        torch.at(place): torch.shape(sizes)
        for _, torch in dialect.views
        for place in torch.places(sizes)
    }
    groups = named(
        held["param_groups"],
        leaves(dialect, config, order),
        shapes,
        {number: tuple(entry["exp_avg"].shape) for number, entry in state.items()},
    )
    names = [name for group in groups for name in group.names]
    numbers = [number for group in held["param_groups"] for number in group["params"]]
    listed = set(numbers)
    if strange := [number for number in state if number not in listed]:
        raise UserError(
            f"it keeps moments of {in_a_row(map(repr, strange), ', ')}, which none of its groups lists"
        )
    entries = {
        name: state[number] for name, number in zip(names, numbers, strict=True) if number in state
    }

    def tree(key: str) -> Tree:
        arrays = {name: torchfile.to_array(entry[key]) for name, entry in entries.items()}
        dtype = np.result_type(*arrays.values()) if arrays else np.dtype(np.float32)

        def moment(name: str) -> np.ndarray:
            return arrays[name] if name in arrays else np.zeros(shapes[name], dtype)

        return move.to_flax(dialect, sizes, moment)

    steps = {int(entry["step"]) for entry in entries.values()} or {0}
    if len(steps) > 1:
        raise Unlike(
            f"its parameters have had {min(steps)} to {max(steps)} steps, and not all the same"
        )
    (step,) = steps
    moments = Moments(step, step, tree("exp_avg"), tree("exp_avg_sq"))
    return Optimizer(moments, groups, tuple(name for name in names if name not in entries))


def _require_adamw(held: Mapping[str, Any]) -> None:
    state, groups = held["state"], held["param_groups"]
    plain = (
        isinstance(state, dict)
        and isinstance(groups, list)
        and all(isinstance(group, dict) for group in groups)
    )
    lists = [group.get("params") for group in groups] if plain else [None]
    if not all(
        isinstance(numbers, list) and all(type(number) is int for number in numbers)
        for numbers in lists
    ):
        raise UserError(
            "it is not laid out as torch does: a state by number, and groups that list these numbers"
        )
    for entry in state.values():
        if not isinstance(entry, dict) or entry.keys() != {"step", *MOMENTS}:
            kept = (
                in_a_row(sorted(map(str, entry)), ", ")
                if isinstance(entry, dict)
                else type(entry).__name__
            )
            raise Unlike(
                f"of a parameter it keeps {kept or 'nothing'}, and AdamW keeps step, exp_avg and exp_avg_sq"
            )
        if not all(_is_moment(entry[key]) for key in MOMENTS):
            raise UserError("its moments hold NaN or infinite numbers, or none at all")
        if not _is_count(entry["step"]):
            raise UserError(
                f"the step of a parameter is {entry['step']!r}, and no count of updates"
            )
        if entry["exp_avg"].shape != entry["exp_avg_sq"].shape:
            raise UserError(
                f"its two moments of a parameter are {[tuple(entry[key].shape) for key in MOMENTS]}"
            )
    for group in groups:
        if (
            lacking := {"lr", "betas", "eps", "weight_decay", "amsgrad"} - group.keys()
        ):  # RAdam has all but the last
            raise Unlike(f"its groups have no {in_a_row(sorted(lacking), ', ')}, as AdamW's have")
        if odd := _odd_settings(group):
            raise Unlike(
                f"in its groups {in_a_row(odd, ', ')} is no plain value, or not what AdamW has there"
            )
        if flags := [flag for flag in ("amsgrad", "maximize") if group.get(flag)]:
            raise Unlike(f"it is set to {flags[0]}")
        if group["weight_decay"] and not group.get("decoupled_weight_decay", True):
            raise Unlike("it is Adam, which adds the decay to the gradient")


def _is_moment(value: Any) -> bool:
    import torch

    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return torchfile.is_tensor(value) and value.dtype in floats and bool(value.isfinite().all())


def _is_count(step: Any) -> bool:
    number = step.item() if torchfile.is_tensor(step) and step.numel() == 1 else step
    return type(number) in (int, float) and 0 <= number < 2**31 and number == int(number)


def _odd_settings(group: Mapping[str, Any]) -> list[str]:
    found = extras_json.split({key: value for key, value in group.items() if key != "params"})[1]
    betas = group["betas"]
    pair = isinstance(betas, (list, tuple)) and len(betas) == 2
    numbers = {"lr": group["lr"], "eps": group["eps"], "weight_decay": group["weight_decay"]}
    numbers |= {f"betas.{i}": beta for i, beta in enumerate(betas)} if pair else {"betas": betas}
    return found + [
        key for key, value in numbers.items() if key not in found and not _is_number(value)
    ]


def _is_number(value: Any) -> bool:
    number = value.item() if torchfile.is_tensor(value) and value.numel() == 1 else value
    return type(number) in (int, float) and math.isfinite(number)


def usual_settings() -> dict[str, Any]:
    """The settings of a group that torch's AdamW makes here, for groups that come from no file."""
    import torch

    group = torch.optim.AdamW([torch.zeros(1)]).state_dict()["param_groups"][0]
    return {key: value for key, value in group.items() if key != "params"}


def write(optimizer: Optimizer, dialect: Dialect, config: ModelConfig) -> dict[str, Any]:
    """What `load_state_dict` of torch's AdamW takes, where its groups are these. In the step of each parameter torch
    keeps how many updates were made."""
    import torch

    trees = {key: getattr(optimizer.moments, ours) for key, ours in MOMENTS.items()}
    moments = {key: move.to_torch(dialect, config, tree) for key, tree in trees.items()}
    groups: list[dict[str, Any]] = []
    state: dict[int, dict[str, Any]] = {}
    first = 0
    for group in optimizer.groups:
        numbers = range(first, first := first + len(group.names))
        groups.append({**group.settings, "params": list(numbers)})
        for number, name in zip(numbers, group.names, strict=True):
            if name not in optimizer.untouched:
                state[number] = {"step": torch.tensor(float(optimizer.moments.updates))}
                state[number] |= {
                    key: torchfile.aliasing(np.array(moments[key][name])) for key in MOMENTS
                }
    return {"state": state, "param_groups": groups}

"""Parses the state of torch's AdamW in a file, and checks every part of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxgpt.errors import UserError, in_a_row

from ..dtypes import OF_WEIGHTS
from ..files.torch_tensors import is_tensor
from . import plain_values
from .adamw_keys import (
    DECOUPLED,
    FIELDS,
    FLAGS,
    GROUPS,
    MOMENTS,
    NAMES,
    NUMBERS,
    OF_PARAMETER,
    REQUIRED,
    STATE,
    STEP,
)

MOST_STEPS = 2**31


class NotResumable(UserError):
    """The optimiser computes something other than optax's AdamW, so training cannot resume it."""


@dataclass(frozen=True)
class TorchGroup:
    """A group of parameters, which torch numbers consecutively through all groups."""

    numbers: tuple[int, ...]
    settings: Mapping[str, Any]  # lr, betas, eps, weight_decay, ...: all but the parameters

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters, if torch was given them; () otherwise."""
        return tuple(self.settings.get(NAMES) or ())


@dataclass(frozen=True)
class TorchMoments:
    """The state of one parameter: the number of its updates, and tensors of its shape by key."""

    step: int
    tensors: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(next(iter(self.tensors.values())).shape)


@dataclass(frozen=True)
class TorchAdamW:
    """An AdamW with its groups, and the moments of the parameters that have had a gradient."""

    groups: tuple[TorchGroup, ...]
    moments: Mapping[int, TorchMoments]  # by parameter number

    @property
    def numbers(self) -> list[int]:
        """The numbers of all parameters, in the order of the groups."""
        return [number for group in self.groups for number in group.numbers]

    @property
    def step(self) -> int:
        """The number of updates of every parameter; raises NotResumable if they differ."""
        steps = {moments.step for moments in self.moments.values()} or {0}
        if len(steps) > 1:
            raise NotResumable(
                f"its parameters have had different numbers of steps, {min(steps)} to {max(steps)}"
            )
        return steps.pop()


def find(extras: Mapping[Any, Any]) -> list[Any]:
    """The keys of `extras` under which there is the state of an optimiser."""
    return [
        key
        for key, value in extras.items()
        if isinstance(key, (str, int))
        and isinstance(value, dict)
        and {STATE, GROUPS} <= value.keys()
    ]


def parse(stored: Mapping[Any, Any]) -> TorchAdamW:
    """The optimiser whose `state_dict()` is `stored`.

    Raises NotResumable if it is another kind of optimiser, and UserError if it is damaged.
    """
    if not (isinstance(stored[STATE], dict) and isinstance(stored[GROUPS], list)):
        raise _misshapen()
    numbers = [_numbers(group) for group in stored[GROUPS]]
    moments = {number: _moments(entry) for number, entry in stored[STATE].items()}
    groups = [
        TorchGroup(own, _settings(group, len(own)))
        for own, group in zip(numbers, stored[GROUPS], strict=True)
    ]
    adamw = TorchAdamW(tuple(groups), moments)
    _require_consistent_numbers(adamw)
    return adamw


def _misshapen() -> UserError:
    return UserError(
        "it is not laid out as torch does: a state by number, and groups that list these numbers"
    )


def _require_consistent_numbers(adamw: TorchAdamW) -> None:
    listed = set(adamw.numbers)
    if len(listed) < len(adamw.numbers):
        raise UserError("its groups list a parameter twice")
    if strange := [number for number in adamw.moments if number not in listed]:
        numbers = in_a_row(map(repr, strange), ", ")
        raise UserError(f"it keeps moments of {numbers}, which none of its groups lists")


def _numbers(group: Any) -> tuple[int, ...]:
    numbers = group.get(NUMBERS) if isinstance(group, dict) else None
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise _misshapen()
    return tuple(numbers)


def _moments(entry: Any) -> TorchMoments:
    if not isinstance(entry, dict):
        raise NotResumable(
            f"its state of a parameter is a {type(entry).__name__}, not AdamW's moments"
        )
    if entry.keys() != OF_PARAMETER:
        keys = in_a_row(sorted(map(str, entry)), ", ") or "nothing"
        raise NotResumable(
            f"its state of a parameter has {keys}, and AdamW's has {in_a_row(sorted(OF_PARAMETER))}"
        )
    if not all(_is_moment(entry[key]) for key in MOMENTS):
        raise UserError("its moments are NaN or infinite, or not tensors of floating-point numbers")
    step = _number(entry[STEP])
    if step is None or not 0 <= step < MOST_STEPS or step != int(step):
        count = _short(entry[STEP])
        raise UserError(f"the step of a parameter is {count}, not a count of updates")
    shapes = [tuple(entry[key].shape) for key in MOMENTS]
    if len(set(shapes)) > 1:
        raise UserError(f"the two moments of a parameter have the shapes {shapes}")
    return TorchMoments(int(step), {key: entry[key] for key in MOMENTS})


def _is_moment(value: Any) -> bool:
    return (
        is_tensor(value)
        and str(value.dtype).removeprefix("torch.") in OF_WEIGHTS
        and bool(value.isfinite().all())
    )


def _settings(group: Mapping[Any, Any], count: int) -> dict[str, Any]:
    """The settings of a group of `count` parameters."""
    if lacking := REQUIRED - group.keys():
        raise NotResumable(f"its groups have no {in_a_row(sorted(lacking), ', ')}, as AdamW's have")
    settings = {key: value for key, value in group.items() if key != NUMBERS}
    if odd := _odd(settings, count):
        raise NotResumable(
            f"in its groups {in_a_row(odd, ', ')} is not a plain value, or not one of AdamW's"
        )
    if flags := [flag for flag in FLAGS if settings.get(flag)]:
        raise NotResumable(f"it is set to {flags[0]}")
    if settings["weight_decay"] and not settings.get(DECOUPLED, True):
        raise NotResumable("it is Adam, which adds the decay to the gradient")
    return settings


def _odd(settings: Mapping[Any, Any], count: int) -> list[str]:
    """The names of settings with values that AdamW cannot have."""
    odd = plain_values.split(dict(settings))[1]
    odd += [key for key, fields in FIELDS.items() if not _are_finite(settings[key], len(fields))]
    names = settings.get(NAMES)
    if names is not None and not (
        isinstance(names, (list, tuple))
        and len(names) == count
        and all(isinstance(name, str) for name in names)
    ):
        odd.append(NAMES)
    return list(dict.fromkeys(odd))


def _are_finite(value: Any, count: int) -> bool:
    """Whether `value` is a finite number, or a sequence of them if `count` is more than one."""
    if count > 1 and not (isinstance(value, (list, tuple)) and len(value) == count):
        return False
    numbers = map(_number, value if count > 1 else [value])
    return all(number is not None and math.isfinite(number) for number in numbers)


def _number(value: Any) -> int | float | None:
    """`value` as a number, which a tensor of one element may be; None if it is not one."""
    number = value.item() if is_tensor(value) and value.numel() == 1 else value
    return number if type(number) in (int, float) else None


def _short(value: Any) -> str:
    """`value`, shortened for an error message: an untrusted file may hold anything there."""
    return repr(value) if is_tensor(value) or _number(value) is not None else type(value).__name__

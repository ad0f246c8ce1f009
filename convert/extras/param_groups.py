"""Finds the names of an optimiser's parameters, by the usual ways to group them.

torch numbers the parameters across groups and stores no names. The names follow from the order in
which the class lists its parameters, and from the usual ways to make groups.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxgpt.config import OptimConfig
from jaxgpt.errors import UserError, in_a_row
from jaxgpt.seq2seq_config import AnyConfig
from jaxgpt.training.optimizer import DECAYED

from ..rows import whole
from ..rows.kinds import POSITIONS
from ..rows.pair import AnyDialect, sides
from .adamw_keys import BY_GROUP, DECOUPLED, FIELDS, fields_of, settings_of
from .torch_adamw import NotResumable, TorchAdamW

Names = tuple[str, ...]
Partition = tuple[Names, ...]  # the names of the parameters in each group
# Parameters in a class's order -> the kind of each: kernel, embedding, scale or bias.
Leaves = Mapping[str, str]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Group:
    """A group of parameters by name, with its settings in torch's words: lr, betas, eps, ..."""

    names: Names
    settings: Mapping[str, Any]


def leaves(dialect: AnyDialect, config: AnyConfig, order: Sequence[str] = ()) -> dict[str, str]:
    """The parameters in `order`, by default that of the file or the class, with the kind of each.

    A tied head is the embedding, and stored sinusoids are not parameters.
    """
    order = order or whole.order_of(dialect, config)
    owners: dict[str, tuple[Any, ...]] = {
        weight.torch: (weight.flax, weight.part, *weight.place.values())
        for weight in whole.weights(dialect, config)
    }
    first = {owners[name]: name for name in reversed(order) if name in owners}
    for side in sides(dialect, config):
        if side.config.positions_stored:
            first.pop((side.prefix + POSITIONS, ""), None)  # of a table of both sides, one has it
    parameters = set(first.values())
    return {name: owners[name][0].rpartition("/")[2] for name in order if name in parameters}


def named(adamw: TorchAdamW, parameters: Leaves, shapes: Shapes) -> tuple[Group, ...]:
    """The groups of `adamw` by name: the one usual partition that its shapes allow."""
    partitions = _partitions(adamw, parameters)
    counts = [len(group.numbers) for group in adamw.groups]
    sized = [parts for parts in partitions if [len(part) for part in parts] == counts]
    if not sized:
        raise UserError(
            f"its groups have {counts} parameters, and those of the model would have "
            f"{[len(part) for part in partitions[0]]}"
        )
    mismatches = [_mismatch(adamw, parts, shapes) for parts in sized]
    fitting = [parts for parts, wrong in zip(sized, mismatches, strict=True) if not wrong]
    if not fitting:
        raise UserError(mismatches[-1])
    _require_one_order(adamw, fitting)
    pairs = zip(fitting[0], adamw.groups, strict=True)
    return tuple(Group(names, group.settings) for names, group in pairs)


def _partitions(adamw: TorchAdamW, parameters: Leaves) -> list[Partition]:
    """The possible partitions of the parameters into the groups of `adamw`; at least one."""
    if any(group.names for group in adamw.groups):
        return [_as_named(adamw, parameters)]
    partitions = list(_usual(len(adamw.groups), parameters))
    if not partitions:
        raise NotResumable(
            f"it has {len(adamw.groups)} groups of parameters, and which parameters these are is "
            "not known"
        )
    return partitions


def _mismatch(adamw: TorchAdamW, parts: Partition, shapes: Shapes) -> str:
    """The first parameter whose moments do not have the shape in `shapes`; "" if all do."""
    names = [name for part in parts for name in part]
    for number, name in zip(adamw.numbers, names, strict=True):
        moments = adamw.moments.get(number)
        if moments and moments.shape != shapes[name]:
            return (
                f"its moments of parameter {number} are {moments.shape}, where {name} is "
                f"{shapes[name]}"
            )
    return ""


def _require_one_order(adamw: TorchAdamW, fitting: Sequence[Partition]) -> None:
    """Raise NotResumable if two of `fitting` have the same groups in different orders."""
    first = fitting[0]
    for parts in fitting:
        if adamw.moments and parts != first and [*map(set, parts)] == [*map(set, first)]:
            raise NotResumable(
                "its parameters could be in the order of the class or in alphabetical order, and "
                "no shape tells which"
            )


def _as_named(adamw: TorchAdamW, parameters: Leaves) -> Partition:
    """The names that torch recorded, without those of outer modules.

    The prefix removed is the common one that leaves the names most similar to `parameters`.
    """
    recorded = [name for group in adamw.groups for name in group.names]
    outer = recorded[0].split(".")[:-1]
    prefixes = ["".join(f"{part}." for part in outer[:depth]) for depth in range(len(outer) + 1)]
    prefix = min(
        (each for each in prefixes if all(name.startswith(each) for name in recorded)),
        key=lambda each: len({name.removeprefix(each) for name in recorded} ^ parameters.keys()),
    )
    parts = tuple(
        tuple(name.removeprefix(prefix) for name in group.names) for group in adamw.groups
    )
    names = [name for part in parts for name in part]
    if sorted(names) != sorted(parameters):
        odd = sorted({*names} ^ parameters.keys())
        raise UserError(f"of the model and of its param_names, only one has {in_a_row(odd, ', ')}")
    return parts


def _usual(count: int, parameters: Leaves) -> Iterator[Partition]:
    """The usual partitions into `count` groups."""
    if count == 1:
        yield (tuple(parameters),)
    if count == 2:
        # Code that excludes embeddings from decay may sort the names, as minGPT's did, or not.
        for kind, order in (
            ("matrices", list(parameters)),
            ("kernels", sorted(parameters)),
            ("kernels", list(parameters)),
        ):
            parts = _split(order, parameters, kind)
            yield parts
            yield parts[::-1]


def _split(order: Sequence[str], parameters: Leaves, kind: str) -> tuple[Names, Names]:
    """The parameters that decay, by the kind of decay, and those that do not."""
    decayed = tuple(name for name in order if parameters[name] in DECAYED[kind])
    return decayed, tuple(name for name in order if name not in decayed)


def usual_groups(parameters: Leaves, kind: str, settings: Mapping[str, Any]) -> tuple[Group, ...]:
    """The most common groups, all with `settings`; `kind` is the kind of decay."""
    if kind == "all":
        return (Group(tuple(parameters), settings),)
    order = sorted(parameters) if kind == "kernels" else list(parameters)
    return tuple(Group(part, settings) for part in _split(order, parameters, kind))


def renewed(
    groups: Sequence[Group], parameters: Leaves, optim: OptimConfig, rate: float
) -> tuple[Group, ...]:
    """`groups` with the settings of a run with `optim`, now at the learning rate `rate`."""
    renewed_groups = []
    for group in groups:
        decay = optim.weight_decay if _decays(group, parameters, optim.decay) else 0.0
        settings = {
            **group.settings, **settings_of(optim), "lr": rate, "weight_decay": decay,
        }  # fmt: skip
        if decay and DECOUPLED in settings:  # without decay, it may have been Adam
            settings[DECOUPLED] = True
        renewed_groups.append(Group(group.names, settings))
    return tuple(renewed_groups)


def _decays(group: Group, parameters: Leaves, kind: str) -> bool:
    """Whether the parameters of `group` decay; raises UserError if only some do."""
    decays = {parameters[name] in DECAYED[kind] for name in group.names}
    if len(decays) > 1:
        raise UserError(
            f"The optimiser cannot be written: with optim.decay {kind}, only some parameters in "
            f"the group of {group.names[0]} would decay. --weights-only leaves the optimiser out."
        )
    return decays == {True}


def as_settings(groups: tuple[Group, ...], parameters: Leaves) -> dict[str, Any]:
    """The settings of `groups` as fields of OptimConfig; raises NotResumable if there are no such
    fields."""
    first = groups[0].settings
    different = [
        key
        for key in FIELDS
        if key != BY_GROUP and any(group.settings[key] != first[key] for group in groups)
    ]
    if different:
        raise NotResumable(f"its groups differ in {in_a_row(different, ', ')}")
    settings: dict[str, Any] = {**fields_of(first), **_decay_of(groups, parameters)}
    try:
        OptimConfig(**settings, final_learning_rate=0.0)
    except UserError as error:  # the rate has decayed to zero
        raise NotResumable(str(error).rstrip(".")) from None
    return settings


def _decay_of(groups: tuple[Group, ...], parameters: Leaves) -> dict[str, Any]:
    """The strength of the decay and the kind of parameters that decay, as fields of OptimConfig."""
    decaying = [group for group in groups if group.settings[BY_GROUP]]
    rates = {float(group.settings[BY_GROUP]) for group in decaying}
    names = {name for group in decaying for name in group.names}
    kinds = [
        kind
        for kind, leaf_kinds in DECAYED.items()
        if names == {name for name in parameters if parameters[name] in leaf_kinds}
    ]
    if len(rates) > 1 or (rates and not kinds):
        raise NotResumable(
            "which of its parameters decay, and how much, corresponds to no optim.decay: "
            f"{', '.join(DECAYED)}"
        )
    if not rates:
        return {"weight_decay": 0.0}
    return {"weight_decay": rates.pop(), "decay": kinds[0]}

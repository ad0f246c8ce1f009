"""Which parameters an optimiser of torch's has, in which groups, with which settings. Knows no array.

torch numbers the parameters through the groups and names none: which is which follows from the order in which a class
lists them, and from how people make groups.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxgpt.config import ModelConfig, OptimConfig
from jaxgpt.errors import UserError, in_a_row
from jaxgpt.training.optimizer import DECAYED

from ..files.statedict import LIGHTNING_WRAPPERS, wrapping
from ..rows.dialect import Dialect
from ..rows.kinds import POSITIONS
from ..rows.move import sizes_of
from ..rows.order import in_module_order

Names = tuple[str, ...]
Leaves = Mapping[
    str, str
]  # parameters in a class's order -> what each is: kernel, embedding, scale or bias
Shapes = Mapping[Any, tuple[int, ...]]


class Unlike(UserError):
    """An optimiser that is no AdamW as optax has it."""


@dataclass(frozen=True)
class Group:
    names: Names
    settings: Mapping[str, Any]  # in torch's words: lr, betas, eps, weight_decay, ...


def leaves(dialect: Dialect, config: ModelConfig, order: Sequence[str] = ()) -> dict[str, str]:
    """In the order given, or in that of the class. A tied head is the embedding again, stored sinusoids are none."""
    sizes = sizes_of(config)
    order = order or in_module_order(list(dialect.tensors), sizes)
    owners: dict[str, tuple[Any, ...]] = {
        torch.at(p): (flax.name, *p.values())
        for flax, torch in dialect.views
        for p in torch.places(sizes)
    }
    first = {owners[name]: name for name in reversed(order) if name in owners}
    if config.positions_stored:
        first.pop((POSITIONS,))
    kept = set(first.values())
    return {name: owners[name][0].rpartition("/")[2] for name in order if name in kept}


def named(
    groups: Sequence[Mapping[str, Any]], known: Leaves, shapes: Shapes, stored: Shapes
) -> tuple[Group, ...]:
    """Names for the numbers: of the ways in which people make groups, the one that the stored shapes allow."""
    counts = [len(group["params"]) for group in groups]
    told = any(group.get("param_names") for group in groups)
    ways = [_said(groups, known)] if told else list(_ways(len(groups), known))
    if not ways:
        raise Unlike(
            f"it has {len(groups)} groups of parameters, and which parameters these are is not known"
        )
    fitting = [parts for parts in ways if [len(part) for part in parts] == counts]
    problem = f"its groups have {counts} parameters, and those of the model would have {[len(p) for p in ways[0]]}"
    found: list[tuple[Names, ...]] = []
    for parts in fitting:
        numbers = [number for group in groups for number in group["params"]]
        pairs = list(zip(numbers, itertools.chain(*parts), strict=True))
        wrong = [
            (number, name)
            for number, name in pairs
            if stored.get(number, shapes[name]) != shapes[name]
        ]
        if wrong:
            number, name = wrong[0]
            problem = f"its moments of parameter {number} are {stored[number]}, where {name} is {shapes[name]}"
        else:
            found.append(parts)
    if not found:
        raise UserError(problem)
    for parts in found:
        if stored and parts != found[0] and [*map(set, parts)] == [*map(set, found[0])]:
            raise Unlike(
                "its parameters could be in the order of the class or of the alphabet, and no shape tells which"
            )
    settings = [{key: value for key, value in group.items() if key != "params"} for group in groups]
    return tuple(map(Group, found[0], settings))


def _said(groups: Sequence[Mapping[str, Any]], known: Leaves) -> tuple[Names, ...]:
    """torch keeps the names where it was given them, with what wrappers put before them."""
    names = [[str(name) for name in group.get("param_names") or ()] for group in groups]
    prefix = wrapping(list(itertools.chain(*names)), LIGHTNING_WRAPPERS)
    parts = tuple(tuple(name.removeprefix(prefix) for name in part) for part in names)
    if sorted(itertools.chain(*parts)) != sorted(known):
        odd = sorted({*itertools.chain(*parts)} ^ known.keys())
        raise UserError(f"of the model and of its param_names, only one has {in_a_row(odd, ', ')}")
    return parts


def _ways(count: int, known: Leaves) -> Iterator[tuple[Names, ...]]:
    if count == 1:
        yield (tuple(known),)
    if count == 2:
        # Who leaves embeddings out sorts the names, as minGPT did, or does not.
        for kind, order in (
            ("matrices", list(known)),
            ("kernels", sorted(known)),
            ("kernels", list(known)),
        ):
            parts = _split(order, known, kind)
            yield parts
            yield parts[::-1]


def _split(order: Sequence[str], known: Leaves, kind: str) -> tuple[Names, Names]:
    """What decays, and what does not."""
    decayed = tuple(name for name in order if known[name] in DECAYED[kind])
    return decayed, tuple(name for name in order if name not in decayed)


def made(known: Leaves, kind: str = "all") -> tuple[Group, ...]:
    """As people make them; `kind` is what decays in most runs of the class."""
    order = sorted(known) if kind == "kernels" else list(known)
    parts: Sequence[Names] = (tuple(known),) if kind == "all" else _split(order, known, kind)
    return tuple(Group(part, {}) for part in parts)


def renewed(
    groups: Sequence[Group], known: Leaves, optim: OptimConfig, rate: float
) -> tuple[Group, ...]:
    """The same groups in a run with these settings."""
    new = {"lr": rate, "betas": (optim.beta1, optim.beta2), "eps": optim.eps}
    found = []
    for group in groups:
        decays = {known[name] in DECAYED[optim.decay] for name in group.names}
        if len(decays) > 1:
            raise UserError(
                f"The optimiser cannot be written: with optim.decay {optim.decay} one group of this class, that of "
                f"{group.names[0]}, would decay in part. Set --weights-only to go without it."
            )
        found.append(
            Group(
                group.names,
                {**group.settings, **new, "weight_decay": max(decays) * optim.weight_decay},
            )
        )
    return tuple(found)


def as_settings(groups: tuple[Group, ...], known: Leaves) -> dict[str, Any]:
    """In the words of OptimConfig; Unlike where it has none."""
    first = groups[0].settings
    if different := [
        key for key in ("lr", "betas", "eps") if any(g.settings[key] != first[key] for g in groups)
    ]:
        raise Unlike(f"its groups differ in {in_a_row(different, ', ')}")
    rates = {group.settings["weight_decay"] for group in groups} - {0}
    decayed = {name for group in groups if group.settings["weight_decay"] for name in group.names}
    kinds = [
        kind
        for kind, leaf in DECAYED.items()
        if decayed == {name for name in known if known[name] in leaf}
    ]
    if len(rates) > 1 or (rates and not kinds):
        raise Unlike(
            f"which of its parameters decay, and how much, is none of {', '.join(DECAYED)}"
        )
    beta1, beta2 = first["betas"]
    values = {
        "learning_rate": first["lr"],
        "eps": first["eps"],
        "weight_decay": max(rates, default=0.0),
    }
    values |= {"beta1": beta1, "beta2": beta2}
    found: dict[str, Any] = {
        name: float(value) for name, value in values.items()
    }  # some are tensors
    found |= {"decay": kinds[0]} if rates else {}
    try:
        OptimConfig(**found, final_learning_rate=0.0)
    except UserError as error:  # a rate that has come down to zero
        raise Unlike(str(error).rstrip(".")) from None
    return found

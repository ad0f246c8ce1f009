"""Which combination of values loses least, and what that settles. Knows no model and no text: losses come in."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BEAM = 3  # combinations on which each field is tried
SURE = 3.0  # standard errors
LEAST = 1e-3  # nats per token: a smaller difference may be the other way round on another text
Combination = tuple[Any, ...]  # a value of each field, in the order of the fields
Options = list[tuple[Any, ...]]  # of each field the values that there are


@dataclass(frozen=True)
class Row:
    """One combination."""

    fields: dict[str, Any]
    losses: np.ndarray = field(repr=False)  # nats per token, of each window

    @property
    def loss(self) -> float:
        return float(self.losses.mean())

    def behind(self, other: "Row") -> tuple[float, float]:
        """How much more it loses, and what of that may be chance. Windows differ far more than functions do, so they
        are taken in pairs."""
        gaps = self.losses - other.losses
        return float(gaps.mean()), max(LEAST, SURE * float(gaps.std(ddof=1)) / len(gaps) ** 0.5)

    def worse_than(self, other: "Row") -> bool:
        gap, noise = self.behind(other)
        return gap > noise

    def unlike(self, other: "Row") -> list[str]:
        return [name for name, value in self.fields.items() if value != other.fields[name]]


@dataclass(frozen=True)
class Ranking:
    """What a text tells of the fields that a checkpoint leaves open."""

    rows: list[Row]  # each combination that was tried, best first
    options: dict[str, tuple[Any, ...]]  # of each open field
    assumed: dict[str, Any]  # of open fields that have a usual value
    asked: list[str]  # fields without one, of which no loss tells
    tokens: int
    entropy: float  # nats per token of the text, for one who knows how frequent each token is and nothing else
    spelling: str  # what turned the text into ids

    @property
    def possible(self) -> int:
        return math.prod(map(len, self.options.values()))

    @property
    def fits(self) -> bool:
        """Whether the best knows anything of the text; where it does not, the order means nothing."""
        return not self.rows or self.rows[0].loss < self.entropy

    @functools.cached_property
    def left(self) -> dict[str, list[Any]]:
        """Of each open field the values that the text does not rule out."""
        if not self.fits:
            return {name: list(options) for name, options in self.options.items()}
        found = {}
        for name, options in self.options.items():
            nearest: dict[Any, Row] = {}
            for row in self.rows:
                nearest.setdefault(row.fields[name], row)
            found[name] = [option for option in options if not nearest[option].worse_than(self.rows[0])]
        return found

    @property
    def settled(self) -> dict[str, Any]:
        return {name: values[0] for name, values in self.left.items() if len(values) == 1}

    @property
    def unsettled(self) -> dict[str, list[Any]]:
        return {name: values for name, values in self.left.items() if name not in self.settled}

    @property
    def kept(self) -> dict[str, Any]:
        """Of each unsettled field the usual value; where that is ruled out, the next that is not."""
        return {
            name: self.assumed[name] if self.assumed[name] in values else values[0]
            for name, values in self.unsettled.items()
            if name in self.assumed
        }

    @property
    def margin(self) -> float:
        """How far, in nats per token, the best is ahead of all that differ in a settled field; 0 where none is."""
        rivals = (row for row in self.rows if {*row.unlike(self.rows[0])} & self.settled.keys())
        return next((row.loss - self.rows[0].loss for row in rivals), 0.0)

    @property
    def line(self) -> str:
        """For to-flax: what is settled, and what is assumed no longer."""
        turned = {name: value for name, value in self.kept.items() if value != self.assumed[name]}
        return " ".join(f"--set {name}={spelled(value)}" for name, value in {**self.settled, **turned}.items())

    @property
    def groups(self) -> list[tuple[Row, dict[str, list[Any]]]]:
        """Rows that differ in a single field, and by no more than chance, are told as one."""
        found: list[tuple[Row, dict[str, list[Any]]]] = []
        for row in self.rows:
            for head, values in found:
                unlike = {*row.unlike(head)} | {name for name, several in values.items() if len(several) > 1}
                if len(unlike) == 1 and not row.worse_than(head):
                    (name,) = unlike
                    values[name].append(row.fields[name])
                    break
            else:
                found.append((row, {name: [value] for name, value in row.fields.items()}))
        return found

    def as_dict(self) -> dict[str, Any]:
        shown = ("settled", "unsettled", "kept", "asked", "margin", "line", "fits", "entropy", "tokens", "spelling")
        behind = [dict(zip(("behind", "noise"), row.behind(self.rows[0]), strict=True)) for row in self.rows]
        rows = [{**row.fields, "loss": row.loss, **gap} for row, gap in zip(self.rows, behind, strict=True)]
        return {**{name: getattr(self, name) for name in shown}, "possible": self.possible, "rows": rows}


def spelled(value: Any) -> str:
    """As one types it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class Search:
    """Tries field after field on the few best so far, then all neighbours of the best until none is better. Values
    that are hardly to be told apart, `alike`, are tried beside the best alone."""

    def __init__(
        self,
        options: Mapping[str, tuple[Any, ...]],
        measure: Callable[[dict[str, Any]], np.ndarray],
        alike: Iterable[set[Any]] = (),
        tell: Callable[[str], None] = lambda so_far: None,
    ):
        self.names, self.options, self.alike = list(options), list(options.values()), list(alike)
        self.measure, self.tell = measure, tell
        self.losses: dict[Combination, np.ndarray] = {}

    def run(self) -> list[Row]:
        unlike: Options = [self._unlike(options) for options in self.options]
        beam = [tuple(options[0] for options in self.options)]
        for place, options in enumerate(unlike):
            beam = self._sorted(_varied(beam, place, options))[:BEAM]
        best, last = beam[0], None
        while best != last:
            best, last = self._beside(best, unlike), best
        self._beside(best, self.options)
        return [Row(self._fields(combination), self.losses[combination]) for combination in self._sorted(self.losses)]

    def _beside(self, best: Combination, options: Options) -> Combination:
        """The best of its neighbours and itself."""
        near = (one for place in range(len(options)) for one in _varied([best], place, options[place]))
        return self._sorted([best, *near])[0]

    def _sorted(self, combinations: Iterable[Combination]) -> list[Combination]:
        combinations = list(dict.fromkeys(combinations))
        for combination in combinations:
            if combination not in self.losses:
                self.tell(f"{len(self.losses)} of {math.prod(map(len, self.options))} combinations tried")
                self.losses[combination] = self.measure(self._fields(combination))
        return sorted(combinations, key=lambda combination: float(self.losses[combination].mean()))

    def _fields(self, combination: Combination) -> dict[str, Any]:
        return dict(zip(self.names, combination, strict=True))

    def _unlike(self, options: tuple[Any, ...]) -> tuple[Any, ...]:
        """The first of each kind."""
        kinds = [next((i for i, kind in enumerate(self.alike) if option in kind), option) for option in options]
        return tuple(option for i, option in enumerate(options) if kinds[i] not in kinds[:i])


def _varied(beam: list[Combination], place: int, options: tuple[Any, ...]) -> list[Combination]:
    return [(*one[:place], option, *one[place + 1 :]) for one in beam for option in options]

"""The search for the combination of values with the least loss, and what its result settles.

Independent of models and texts: a function measures the losses.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxgpt.settings import typed

BEAM = 3  # best combinations from which each group of fields is varied
SURE = 3.0  # standard errors
LEAST = 1e-3  # nats per token: a smaller difference may have the other sign on another text
Combination = tuple[Any, ...]  # a value for each field, in the order of the fields
Options = Mapping[str, tuple[Any, ...]]  # the possible values of each field


@dataclass(frozen=True)
class Row:
    """A combination of values, and its losses."""

    fields: dict[str, Any]
    losses: np.ndarray = field(repr=False)  # nats per token, one for each window

    @property
    def loss(self) -> float:
        return float(self.losses.mean())

    def behind(self, other: "Row") -> tuple[float, float]:
        """The extra loss of this row over `other`, and how much of it may be chance.

        Losses are compared window by window, since windows differ far more than functions do.
        """
        gaps = self.losses - other.losses
        return float(gaps.mean()), max(LEAST, SURE * float(gaps.std(ddof=1)) / len(gaps) ** 0.5)

    def worse_than(self, other: "Row") -> bool:
        gap, noise = self.behind(other)
        return gap > noise

    def unlike(self, other: "Row") -> list[str]:
        """Names of the fields whose values differ."""
        return [name for name, value in self.fields.items() if value != other.fields[name]]


@dataclass(frozen=True)
class Ranking:
    """The combinations tried on a text, and the fields that their losses settle."""

    rows: list[Row]  # the combinations tried, best first
    options: Options  # the possible values of each open field
    assumed: dict[str, Any]  # the usual values of open fields that have one
    asked: list[str]  # fields without one, which no loss can settle
    tokens: int
    entropy: float  # nats per token of a unigram model of the text
    spelling: str  # the name of the tokenizer of the text
    bigram: float = math.inf  # nats per token of a bigram model of the text
    # The best combination with one part of the model larger, smaller or left out.
    altered: dict[str, Row] = field(default_factory=dict)
    # For each field, its assumed value and the key in `altered` that puts it to the test.
    confirmable: dict[str, tuple[Any, str]] = field(default_factory=dict)

    @property
    def possible(self) -> int:
        """The number of combinations of all values."""
        return math.prod(map(len, self.options.values()))

    @property
    def floor(self) -> float:
        """The loss of the better n-gram model; a trained model, read correctly, loses less."""
        return min(self.entropy, self.bigram)

    @functools.cached_property
    def improvements(self) -> dict[str, float]:
        """Alterations that lower the best loss beyond chance, with their gains.

        A trained model that is read correctly has none, as training has found the best scale of
        each part; one that is read as another function has some.
        """
        better = [(name, row) for name, row in self.altered.items() if self.rows[0].worse_than(row)]
        return {name: self.rows[0].behind(row)[0] for name, row in better}

    @property
    def fits(self) -> bool:
        """Whether the best combination is that of training; if not, the order means nothing."""
        return not self.rows or (self.rows[0].loss < self.floor and not self.improvements)

    @functools.cached_property
    def close(self) -> list[Row]:
        """The combinations that the text does not rule out."""
        return [row for row in self.rows if not row.worse_than(self.rows[0])] if self.fits else []

    @functools.cached_property
    def left(self) -> dict[str, list[Any]]:
        """The values of each open field that the text does not rule out."""
        if not self.fits:
            return {name: list(options) for name, options in self.options.items()}
        return {
            name: [
                option
                for option in options
                if any(row.fields[name] == option for row in self.close)
            ]
            for name, options in self.options.items()
        }

    @property
    def confirmed(self) -> dict[str, Any]:
        """Assumed values without which the best combination would lose more, beyond chance."""
        return {
            name: value
            for name, (value, change) in self.confirmable.items()
            if self.fits and self.altered[change].worse_than(self.rows[0])
        }

    @property
    def settled(self) -> dict[str, Any]:
        """The fields with a single remaining value, and the confirmed ones."""
        if not self.fits:
            return {}
        return {
            name: values[0] for name, values in self.left.items() if len(values) == 1
        } | self.confirmed

    @property
    def unsettled(self) -> dict[str, list[Any]]:
        """The remaining values of each field that is not settled."""
        return {name: values for name, values in self.left.items() if name not in self.settled}

    @property
    def to_say(self) -> dict[str, Any]:
        """Unsettled fields whose usual value is ruled out, with one of the remaining values.

        Only chance decides between those, so the user has to.
        """
        return {name: value for name, value in self.kept.items() if value != self.assumed[name]}

    @property
    def kept(self) -> dict[str, Any]:
        """Values to assume for the unsettled fields: those of the most usual remaining combination.

        Of several that differ from the usual model in as many fields, the one is taken that differs
        in the fields in which models vary more often.
        """

        def unlike(row: Row) -> tuple[int, list[bool]]:
            differs = [row.fields[name] != value for name, value in self.assumed.items()]
            return sum(differs), differs[::-1]

        values = min(self.close, key=unlike).fields if self.close else self.assumed
        return {name: values[name] for name in self.unsettled if name in self.assumed}

    @property
    def margin(self) -> float:
        """Nats per token from the best row to the next with another value of a settled field."""
        rivals = [row for row in self.rows if {*row.unlike(self.rows[0])} & self.settled.keys()]
        rivals += [self.altered[self.confirmable[name][1]] for name in self.confirmed]
        return min((row.loss - self.rows[0].loss for row in rivals), default=0.0)

    @property
    def line(self) -> str:
        """The options of to-flax that set the settled fields."""
        return " ".join(f"--set {name}={typed(value)}" for name, value in self.settled.items())

    @property
    def groups(self) -> list[tuple[Row, dict[str, list[Any]]]]:
        """Rows that differ in a single field, and by no more than chance, merged into one."""
        merged: list[tuple[Row, dict[str, list[Any]]]] = []
        for row in self.rows:
            for head, values in merged:
                unlike = {*row.unlike(head)} | {
                    name for name, several in values.items() if len(several) > 1
                }
                if len(unlike) == 1 and not row.worse_than(head):
                    (name,) = unlike
                    values[name].append(row.fields[name])
                    break
            else:
                merged.append((row, {name: [value] for name, value in row.fields.items()}))
        return merged

    def as_dict(self) -> dict[str, Any]:
        shown = (
            "settled", "unsettled", "kept", "to_say", "asked", "margin", "line", "fits",
            "improvements", "entropy", "bigram", "tokens", "spelling",
        )  # fmt: skip
        behind = [
            dict(zip(("behind", "noise"), row.behind(self.rows[0]), strict=True))
            for row in self.rows
        ]
        rows = [
            {**row.fields, "loss": row.loss, **gap}
            for row, gap in zip(self.rows, behind, strict=True)
        ]
        return {
            **{name: getattr(self, name) for name in shown},
            "possible": self.possible,
            "rows": rows,
        }


class Search:
    """A beam search over combinations of values.

    It tries all values of the fields `first`, then varies each of `groups` on the few best so far,
    then tries all neighbours of the best until none is better. Fields form a group if a wrong value
    of one makes a wrong value of another look better than the right one. Of the values in a set of
    `alike`, which differ hardly in loss, all but the first are tried only next to the best.
    """

    def __init__(
        self,
        options: Options,
        first: tuple[str, ...],
        groups: Iterable[tuple[str, ...]],
        measure: Callable[[dict[str, Any]], np.ndarray],
        alike: Iterable[set[Any]] = (),
        tell: Callable[[str], None] = lambda so_far: None,
    ):
        self.options, self.first, self.groups, self.alike = (
            dict(options),
            first,
            list(groups),
            list(alike),
        )
        self.measure, self.tell = measure, tell
        self.losses: dict[Combination, np.ndarray] = {}

    def run(self) -> list[Row]:
        unlike = {name: self._unlike(options) for name, options in self.options.items()}
        beam = [tuple(options[0] for options in self.options.values())]
        for group in [self.first, *self.groups]:
            beam = self._sorted(
                other for one in beam for other in self._varied(one, group, unlike)
            )[:BEAM]
        best, last = beam[0], None
        while best != last:
            best, last = self._beside(best, unlike), best
        self._beside(best, self.options)
        return [Row(self._fields(one), self.losses[one]) for one in self._sorted(self.losses)]

    def _beside(self, best: Combination, options: Options) -> Combination:
        """The best among `best` and its neighbours."""
        return self._sorted(
            [best, *(one for group in self.groups for one in self._varied(best, group, options))]
        )[0]

    def _varied(
        self, one: Combination, group: tuple[str, ...], options: Options
    ) -> Iterator[Combination]:
        return itertools.product(
            *(
                options[name] if name in group else (value,)
                for name, value in self._fields(one).items()
            )
        )

    def _sorted(self, combinations: Iterable[Combination]) -> list[Combination]:
        combinations = list(dict.fromkeys(combinations))
        for one in combinations:
            if one not in self.losses:
                self.tell(f"{len(self.losses)} combinations tried")
                self.losses[one] = self.measure(self._fields(one))
        return sorted(combinations, key=lambda one: float(self.losses[one].mean()))

    def _fields(self, one: Combination) -> dict[str, Any]:
        return dict(zip(self.options, one, strict=True))

    def _unlike(self, options: tuple[Any, ...]) -> tuple[Any, ...]:
        """The first value of each kind in `options`."""
        kinds = [
            next((kind for kind in self.alike if option in kind), option) for option in options
        ]
        return tuple(option for i, option in enumerate(options) if kinds[i] not in kinds[:i])

"""Combinations of values ranked by loss, and the fields that their losses settle."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxgpt.settings import typed

SURE = 3.0  # standard errors
LEAST = 1e-3  # nats per token; the sign of a smaller difference may change on another text
SHOWN = (  # attributes in the JSON of a ranking
    "settled",
    "unsettled",
    "kept",
    "to_say",
    "asked",
    "margin",
    "line",
    "fits",
    "improvements",
    "entropy",
    "bigram",
    "tokens",
    "spelling",
)
Options = Mapping[str, tuple[Any, ...]]  # the possible values of each field


@dataclass(frozen=True)
class Row:
    """A combination of values of the fields that mean something in it, and its losses."""

    fields: dict[str, Any]
    losses: np.ndarray = field(repr=False)  # nats per token, one for each window

    @property
    def loss(self) -> float:
        return float(self.losses.mean())

    def behind(self, other: "Row") -> tuple[float, float]:
        """The extra loss of this row over `other`, and how much of it may be chance.

        Losses are compared window by window, because windows differ far more than candidates do.
        """
        gaps = self.losses - other.losses
        return float(gaps.mean()), max(LEAST, SURE * float(gaps.std(ddof=1)) / len(gaps) ** 0.5)

    def worse_than(self, other: "Row") -> bool:
        gap, noise = self.behind(other)
        return gap > noise

    def unlike(self, other: "Row") -> list[str]:
        """Names of the fields of both rows whose values differ."""
        common = [name for name in self.fields if name in other.fields]
        return [name for name in common if self.fields[name] != other.fields[name]]

    def has(self, name: str, value: Any) -> bool:
        """Whether field `name` has an effect in this combination, and has `value`."""
        return name in self.fields and self.fields[name] == value


@dataclass(frozen=True)
class Ranking:
    """The combinations tried on a text, and the fields that their losses settle."""

    # The combinations tried: the best or one as good, next to which all were tried, then by loss.
    rows: list[Row]
    options: Options  # the possible values of each open field
    assumed: dict[str, Any]  # the usual values of open fields that have one
    asked: list[str]  # fields without a usual value, which no loss can settle
    tokens: int
    entropy: float  # nats per token of a unigram model of the text
    spelling: str  # the name of the tokenizer of the text
    bigram: float = math.inf  # nats per token of a bigram model of the text
    # The best combination with one part of the model larger or smaller.
    altered: dict[str, Row] = field(default_factory=dict)
    # Rows that differ from the best in one field, with the part resized that may compensate for it.
    adjusted: list[Row] = field(default_factory=list)

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
        """Whether the best combination can be the one used in training; if not, the ranking means
        nothing."""
        return not self.rows or (self.rows[0].loss < self.floor and not self.improvements)

    @functools.cached_property
    def close(self) -> list[Row]:
        """The combinations that the text does not rule out."""
        rivals = [*self.rows, *self.adjusted] if self.fits else []
        return [row for row in rivals if not row.worse_than(self.rows[0])]

    @functools.cached_property
    def left(self) -> dict[str, list[Any]]:
        """The values of each open field that the text does not rule out.

        Fields that mean nothing in any of the remaining combinations are left out.
        """
        if not self.fits:
            return {name: list(options) for name, options in self.options.items()}
        values = {
            name: [option for option in options if any(row.has(name, option) for row in self.close)]
            for name, options in self.options.items()
        }
        return {name: remaining for name, remaining in values.items() if remaining}

    @property
    def settled(self) -> dict[str, Any]:
        """The fields with the same value in all remaining combinations."""
        return {
            name: values[0]
            for name, values in self.left.items()
            if self.close and all(row.has(name, values[0]) for row in self.close)
        }

    @property
    def unsettled(self) -> dict[str, list[Any]]:
        """The remaining values of each field that is not settled."""
        return {name: values for name, values in self.left.items() if name not in self.settled}

    @property
    def to_say(self) -> dict[str, Any]:
        """The unsettled fields whose usual value is ruled out, each with one remaining value.

        The differences between these are chance, so the user has to decide.
        """
        return {name: value for name, value in self.kept.items() if value != self.assumed[name]}

    @property
    def kept(self) -> dict[str, Any]:
        """Values to assume for the unsettled fields: those of the most usual remaining combination.

        If several differ from the usual model in equally many fields, the one that differs in the
        more commonly varied fields is chosen.
        """

        usual = self.assumed.items()

        def unlike(row: Row) -> tuple[int, list[bool]]:
            differs = [name in row.fields and not row.has(name, value) for name, value in usual]
            return sum(differs), differs[::-1]

        values = min(self.close, key=unlike).fields if self.close else self.assumed
        return {
            name: values[name] for name in self.unsettled if name in self.assumed and name in values
        }

    @property
    def margin(self) -> float:
        """Nats per token from the best row to the next with another value of a settled field."""
        rivals = [row for row in self.rows if {*row.unlike(self.rows[0])} & self.settled.keys()]
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
        """The result as JSON values."""
        rows = []
        for row in self.rows:
            behind, noise = row.behind(self.rows[0])
            rows.append({**row.fields, "loss": row.loss, "behind": behind, "noise": noise})
        shown = {name: getattr(self, name) for name in SHOWN}
        return {**shown, "possible": self.possible, "rows": rows}

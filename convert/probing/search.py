"""Searches for the combination of values with the lowest loss.

It is independent of models and texts: losses are measured by a function that is passed in.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .ranking import Options, Row

BEAM = 3  # best combinations from which each group of fields is varied
Combination = tuple[Any, ...]  # a value for each field, in the order of the fields


@dataclass(frozen=True)
class Space:
    """The combinations to search, and the order in which their fields are varied."""

    options: Options
    first: tuple[str, ...] = ()  # fields whose values are all tried before any other
    # Fields form a group if a wrong value of one makes a wrong value of another look better than
    # the right one.
    groups: tuple[tuple[str, ...], ...] = ()
    # For some fields, the values whose losses differ little.
    alike: Mapping[str, Collection[Any]] = field(default_factory=dict)
    # Values -> the names of the fields that mean something in that combination; None if no model
    # has these values.
    used: Callable[[dict[str, Any]], Collection[str] | None] = lambda values: values


class Search:
    """A beam search over the combinations of `space`.

    It tries all values of the first fields, then varies each group on the few best so far, or on
    the best alone once its loss is below `good`, then tries all neighbours of the best until none
    is better. Of values that are alike, all but the first are tried only next to the best. Fields
    that mean nothing in a combination keep their first value, so that none is measured twice.
    """

    def __init__(
        self,
        space: Space,
        measure: Callable[[dict[str, Any]], np.ndarray],
        tell: Callable[[str], None] = lambda so_far: None,
        good: float = -math.inf,
    ):
        self.space, self.measure, self.tell, self.good = space, measure, tell, good
        self.losses: dict[Combination, np.ndarray] = {}

    def run(self) -> list[Row]:
        """All combinations tried, the best first."""
        options = self.space.options
        unlike = {name: self._unlike(name, values) for name, values in options.items()}
        beam = [tuple(values[0] for values in options.values())]
        for group in [self.space.first, *self.space.groups]:
            varied = (other for one in beam for other in self._varied(one, group, unlike))
            beam = self._sorted(varied)[:BEAM] or beam
            if beam[0] in self.losses and self.losses[beam[0]].mean() < self.good:
                beam = beam[:1]
        best = beam[0]
        for tried in (unlike, options):
            last = None
            while best != last:
                best, last = self._best_neighbour(best, tried), best
        others = [one for one in self._sorted(self.losses) if one != best]
        return [self._row(one) for one in (best, *others)]

    def _best_neighbour(self, best: Combination, options: Options) -> Combination:
        """The best of the combinations that differ from `best` in a single group, or `best` itself.

        A combination that is better by no more than chance does not count: moving on to it would
        measure all others again next to it.
        """
        groups = self.space.groups
        neighbours = [one for group in groups for one in self._varied(best, group, options)]
        first = self._sorted([best, *neighbours])[0]
        return first if self._row(best).worse_than(self._row(first)) else best

    def _varied(
        self, one: Combination, group: tuple[str, ...], options: Options
    ) -> Iterator[Combination]:
        """Yield `one` with all values in `options` of the fields in `group`."""
        values = (
            options[name] if name in group else (value,)
            for name, value in self._fields(one).items()
        )
        for other in itertools.product(*values):
            fields = self._fields(other)
            used = self.space.used(fields)
            if used is not None:
                yield tuple(
                    value if name in used else self.space.options[name][0]
                    for name, value in fields.items()
                )

    def _sorted(self, combinations: Iterable[Combination]) -> list[Combination]:
        """`combinations` by their losses, which are measured once."""
        combinations = list(dict.fromkeys(combinations))
        for one in combinations:
            if one not in self.losses:
                self.tell(f"{len(self.losses)} combinations tried")
                self.losses[one] = self.measure(self._used(one))
        return sorted(combinations, key=lambda one: float(self.losses[one].mean()))

    def _fields(self, one: Combination) -> dict[str, Any]:
        return dict(zip(self.space.options, one, strict=True))

    def _row(self, one: Combination) -> Row:
        return Row(self._used(one), self.losses[one])

    def _used(self, one: Combination) -> dict[str, Any]:
        """The fields of `one` that mean something in it."""
        fields = self._fields(one)
        used = self.space.used(fields) or ()
        return {name: value for name, value in fields.items() if name in used}

    def _unlike(self, name: str, options: tuple[Any, ...]) -> tuple[Any, ...]:
        """The first of the alike values in `options`, and all others."""
        alike = [option for option in options if option in self.space.alike.get(name, ())]
        return tuple(option for option in options if option not in alike[1:])

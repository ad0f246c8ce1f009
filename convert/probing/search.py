"""The search for the combination of values with the least loss.

Independent of models and texts: a function measures the losses.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
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
    alike: tuple[frozenset[Any], ...] = ()  # sets of values whose losses hardly differ


class Search:
    """A beam search over the combinations of `space`.

    It tries all values of the first fields, then varies each group on the few best so far, then
    tries all neighbours of the best until none is better. Of values that are alike, all but the
    first are tried only next to the best.
    """

    def __init__(
        self,
        space: Space,
        measure: Callable[[dict[str, Any]], np.ndarray],
        tell: Callable[[str], None] = lambda so_far: None,
    ):
        self.space, self.measure, self.tell = space, measure, tell
        self.losses: dict[Combination, np.ndarray] = {}

    def run(self) -> list[Row]:
        """All combinations tried, the best first."""
        options = self.space.options
        unlike = {name: self._unlike(values) for name, values in options.items()}
        beam = [tuple(values[0] for values in options.values())]
        for group in [self.space.first, *self.space.groups]:
            varied = (other for one in beam for other in self._varied(one, group, unlike))
            beam = self._sorted(varied)[:BEAM]
        best, last = beam[0], None
        while best != last:
            best, last = self._best_neighbour(best, unlike), best
        self._best_neighbour(best, options)
        return [Row(self._fields(one), self.losses[one]) for one in self._sorted(self.losses)]

    def _best_neighbour(self, best: Combination, options: Options) -> Combination:
        """The best among `best` and the combinations that differ from it in a single group."""
        groups = self.space.groups
        neighbours = [one for group in groups for one in self._varied(best, group, options)]
        return self._sorted([best, *neighbours])[0]

    def _varied(
        self, one: Combination, group: tuple[str, ...], options: Options
    ) -> Iterator[Combination]:
        """Yield `one` with all values in `options` of the fields in `group`."""
        values = (
            options[name] if name in group else (value,)
            for name, value in self._fields(one).items()
        )
        return itertools.product(*values)

    def _sorted(self, combinations: Iterable[Combination]) -> list[Combination]:
        """`combinations` by their losses, which are measured once."""
        combinations = list(dict.fromkeys(combinations))
        for one in combinations:
            if one not in self.losses:
                self.tell(f"{len(self.losses)} combinations tried")
                self.losses[one] = self.measure(self._fields(one))
        return sorted(combinations, key=lambda one: float(self.losses[one].mean()))

    def _fields(self, one: Combination) -> dict[str, Any]:
        return dict(zip(self.space.options, one, strict=True))

    def _unlike(self, options: tuple[Any, ...]) -> tuple[Any, ...]:
        """The first value of each set of alike ones in `options`."""
        kinds = [
            next((kind for kind in self.space.alike if option in kind), option)
            for option in options
        ]
        return tuple(option for i, option in enumerate(options) if kinds[i] not in kinds[:i])

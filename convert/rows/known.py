"""The readings of a dialect that have rows for the names of a file, told before any is fitted.

To fit a reading takes milliseconds, and families have many of them.
"""

import re
from collections.abc import Iterable

from .dialect import Dialect
from .pattern import LabelWords

NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # one that stands alone between dots


class Names:
    """The names of a file, of which one stands for all that differ in the number of a layer."""

    def __init__(self, names: Iterable[str]):
        self._names = list({NUMBER.sub("0", name): name for name in names}.values())
        # By pattern, and by the words of the labels in it: readings and dialects share many.
        self._matched: dict[tuple[str, LabelWords], frozenset[str]] = {}

    def nearest(self, dialect: Dialect) -> list[Dialect]:
        """The readings of `dialect` with rows for the most names."""
        readings = (dialect, *dialect.readings)
        counts = [self._known_to(reading) for reading in readings]
        most = max(counts)
        return [reading for reading, count in zip(readings, counts, strict=True) if count == most]

    def explained_by(self, dialect: Dialect) -> bool:
        """Whether a reading of `dialect` has a row for each name."""
        return self._known_to(self.nearest(dialect)[0]) == len(self._names)

    def _known_to(self, reading: Dialect) -> int:
        """The number of names for which `reading` has a row."""
        words, found = reading.label_words, set[str]()
        for row in reading.rows:
            pattern = row.torch
            key = pattern.text, words if pattern.labels else ()
            if key not in self._matched:
                self._matched[key] = frozenset(filter(pattern.matcher(words), self._names))
            found |= self._matched[key]
        return len(found)

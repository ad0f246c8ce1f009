"""The readings of a dialect that have rows for the names of a file, told before any is fitted.

To fit a reading takes milliseconds, and families have many of them.
"""

import re
from collections.abc import Collection, Iterable

from .axes import LABELS
from .dialect import Dialect
from .pattern import LabelWords, label_words

NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # one that stands alone between dots


def examples(names: Iterable[str]) -> list[str]:
    """One of those `names` that differ in the number of a layer alone, for each of them."""
    return list({NUMBER.sub("0", name): name for name in names}.values())


def nearest(dialect: Dialect, names: Collection[str]) -> tuple[list[Dialect], int]:
    """The readings of `dialect` with rows for the most of `names`, and for how many they have."""
    known: dict[tuple[int, LabelWords], frozenset[str]] = {}  # readings share most patterns
    counts: list[tuple[Dialect, int]] = []
    for reading in (dialect, *dialect.readings):
        words, found = label_words(reading.spellings), set[str]()
        for row in reading.rows:
            pattern = row.torch
            labelled = any(pattern.has(axis) for axis in LABELS)
            key = id(pattern), words if labelled else ()
            if key not in known:
                match = pattern.matcher(words)
                known[key] = frozenset(n for n in names if pattern.may_match(n) and match(n))
            found |= known[key]
        counts.append((reading, len(found)))
    most = max(count for _, count in counts)
    return [reading for reading, count in counts if count == most], most

"""Finds the variants of a dialect that have rows for the names of a file, before any is fitted.

Fitting a variant takes milliseconds, and families have many of them.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import replace

from .dialect import Dialect
from .resolve import settle
from .tensors import Shape, Tensors

NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # one that stands alone between dots


class Names:
    """The names of a file's tensors, and what is known of them; `shapes` maps them to shapes."""

    def __init__(self, shapes: Mapping[str, Shape]):
        self._tensors = Tensors(shapes)
        # One name stands for all that differ in the number of a layer.
        distinct = {NUMBER.sub("0", name): name for name in shapes}.values()
        self._distinct = Tensors({name: shapes[name] for name in distinct})
        # By the ids of the rows and words of the first, which are all that is settled.
        self._settled: dict[tuple[int, int], tuple[Dialect, Dialect]] = {}

    def nearest(self, dialect: Dialect) -> list[Dialect]:
        """The variants of `dialect` with rows for the most names."""
        variants = (dialect, *dialect.variants)
        counts = [self._known_to(variant) for variant in variants]
        most = max(counts)
        return [variant for variant, count in zip(variants, counts, strict=True) if count == most]

    def explained_by(self, dialect: Dialect) -> bool:
        """Whether a variant of `dialect` has a row for each name."""
        return self._known_to(self.nearest(dialect)[0]) == len(self._distinct.shapes)

    def settled(self, dialect: Dialect) -> Dialect:
        """`dialect` settled for the file."""
        key = id(dialect.rows), id(dialect.words)
        if key not in self._settled:
            self._settled[key] = dialect, settle(dialect, self._tensors)
        settled = self._settled[key][1]
        return replace(dialect, rows=settled.rows, words=settled.words, variants=())

    def _known_to(self, variant: Dialect) -> int:
        """The number of names for which `variant` has a row."""
        words, found = variant.label_words, set[str]()
        for row in variant.rows:
            found |= self._distinct.matching(row.torch, words).keys()
        return len(found)


@functools.lru_cache(8)
def _names_of(shapes: tuple[tuple[str, Shape], ...]) -> Names:
    return Names(dict(shapes))


def names_of(shapes: Mapping[str, Shape]) -> Names:
    """The Names of a file with these `shapes`: the same ones for all fields that are tried."""
    return _names_of(tuple((name, tuple(shape)) for name, shape in shapes.items()))

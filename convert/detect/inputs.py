"""The inputs of detection: the tensors and configs of a file, and the fields that are given."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..renaming.renamed import Renamed
from ..rows.fields import OF_DECODERS
from ..rows.known import Names, names_of

Shapes = Mapping[str, tuple[int, ...]]
Configs = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Inputs:
    """The inputs of detection: the tensors and configs of a file, and the fields that are given."""

    shapes: Shapes
    read: Callable[[str], np.ndarray]
    path: object
    given: Mapping[str, Any]
    configs: Configs  # by name; stored with the tensors, in the file or in its folder
    widths: Mapping[str, int] = field(default_factory=dict)  # axis -> its size, shown by values
    side: str = ""  # the prefix of its fields' names: "encoder." for an encoder
    # Fields that the other side shows, such as the vocabulary of a shared embedding, or a form.
    known: Mapping[str, Any] = field(default_factory=dict)
    renamed: Renamed | None = None  # the way back from the names to those in the file

    def under(self, renamed: Renamed) -> "Inputs":
        """The same tensors under other names."""
        shapes, read = renamed.shapes(self.shapes), renamed.reading(self.read)
        widths = {**self.widths, **renamed.widths}
        known = {**self.known, **({"head_dim": widths["k"]} if "k" in renamed.widths else {})}
        return replace(self, shapes=shapes, read=read, renamed=renamed, widths=widths, known=known)

    @functools.cached_property
    def names(self) -> Names:
        """The names of the tensors."""
        return names_of(self.shapes)

    @property
    def irrelevant(self) -> tuple[str, ...]:
        """The fields that mean nothing for this side."""
        return OF_DECODERS if self.side else ()

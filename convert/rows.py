"""What a dialect is made of. Knows the notation of `axes` and the fields of ModelConfig; no file, no array."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from convert.axes import View

# The axes that size a model, and the field of ModelConfig that each one is.
FIELDS = {
    "v": "vocab_size",
    "t": "context_length",
    "d": "model_dim",
    "layer": "num_blocks",
    "head": "num_heads",
    "k": "head_dim",
    "f": "mlp_dim",
}


@dataclass(frozen=True)
class Row:
    """One tensor seen from both sides: its flax view and its torch view."""

    flax: str
    torch: str


@dataclass(frozen=True)
class Dialect:
    """One class of PyTorch GPT: how it names its tensors, and what its files leave unsaid."""

    name: str
    about: str  # one line for people: whose class it is
    rows: tuple[Row, ...]
    unsaid: Mapping[str, Any]  # ModelConfig fields that no tensor shows -> the value this class usually has
    spelling: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    reference: str = ""  # "module:Class" of a torch class to prove against, built with the five sizes of GPT

    @functools.cached_property
    def views(self) -> tuple[tuple[View, View], ...]:
        """(flax, torch) of each row."""
        return tuple((View.parse(row.flax), View.parse(row.torch, self.spelling)) for row in self.rows)

"""How each field of a checkpoint's config is known, and what a person must know who relies on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxgpt.config import ModelConfig

from ..names.config_words import pads

SIZES = ("vocab_size", "context_length", "model_dim", "num_blocks", "num_heads")
# What a file without a table of positions may hold besides sinusoids.
NO_TABLE = (
    "positions leave no trace in this file: besides sinusoids they may be rotary, ALiBi or none at all, which are not "
    "supported yet and would be computed wrongly; verify --torch with your class, or probe with text, can tell"
)
RMS = "its norms have no bias: an RMSNorm would look the same, and be another function"
PADDING = "its config names a token for padding: where the class hides it from attention, this model does not"


@dataclass(frozen=True)
class Report:
    """Each field of ModelConfig stands in exactly one of the three."""

    read: dict[str, Any]  # tensors show it, or a config in the file or beside it
    given: dict[str, Any]  # the caller said it
    assumed: dict[str, Any]  # nobody said it: the dialect's usual value
    caveats: list[str] = field(
        default_factory=list
    )  # what may be wrong all the same, as sentences without full stop

    @property
    def fields(self) -> dict[str, dict[str, Any]]:
        """The fields by how they are known, for JSON."""
        return {"read": self.read, "given": self.given, "assumed": self.assumed}

    @property
    def config(self) -> ModelConfig:
        return ModelConfig(**self.read, **self.given, **self.assumed)

    @property
    def summary(self) -> str:
        """The sizes, and the names of what is assumed, in two lines."""
        sizes = ", ".join(f"{name}={getattr(self.config, name)}" for name in SIZES)
        return f"GPT({sizes}),\n  assumed: {', '.join(self.assumed) or 'nothing'}"


def caveats(
    report: Report, beware: str, hints: list[str], configs: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """The sentences for `Report.caveats`; `hints` are what the numbers suggest, `beware` is what the dialect says."""
    found = []
    if report.assumed:
        found.append(f"what is assumed leaves no trace in the file ({', '.join(report.assumed)})")
    if "positions" in report.assumed:
        found.append(NO_TABLE)
    if report.assumed and beware:
        found.append(beware)
    if "final_norm" in report.assumed:
        found += hints
    if not report.config.norm_bias:
        found.append(RMS)
    if pads(configs):
        found.append(PADDING)
    return found

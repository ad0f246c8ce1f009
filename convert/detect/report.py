"""The source of each field of a checkpoint's config, and caveats for those who rely on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxgpt.config import ModelConfig

from ..names.config_words import pads

SIZES = ("vocab_size", "context_length", "model_dim", "num_blocks", "num_heads")
# The caveat for a file without a position table.
NO_TABLE = (
    "positions leave no trace in this file: besides sinusoids they may be rotary, ALiBi or none at "
    "all, which are not supported yet and would be computed wrongly; verify --torch with your "
    "class, or probe with text, can tell"
)
RMS = "its norms have no bias: an RMSNorm would look the same, and be another function"
PADDING = (
    "its config names a token for padding: where the class hides it from attention, this model "
    "does not"
)


@dataclass(frozen=True)
class Report:
    """The fields of ModelConfig by source; each is in exactly one of the three dicts."""

    read: dict[str, Any]  # shown by tensors, or by a config in the file or alongside it
    given: dict[str, Any]  # set by the caller
    assumed: dict[str, Any]  # the dialect's usual values, for all others
    # What may be wrong nevertheless, as sentences without a full stop.
    caveats: list[str] = field(default_factory=list)

    @property
    def fields(self) -> dict[str, dict[str, Any]]:
        """The fields by source, for JSON."""
        return {"read": self.read, "given": self.given, "assumed": self.assumed}

    @property
    def config(self) -> ModelConfig:
        return ModelConfig(**self.read, **self.given, **self.assumed)

    @property
    def summary(self) -> str:
        """The sizes of the model and the names of the assumed fields, in two lines."""
        sizes = ", ".join(f"{name}={getattr(self.config, name)}" for name in SIZES)
        return f"GPT({sizes}),\n  assumed: {', '.join(self.assumed) or 'nothing'}"


def caveats(
    report: Report, beware: str, hints: list[str], configs: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """The sentences for `Report.caveats`.

    `beware` is the warning of the dialect; `hints` come from the values of the tensors.
    """
    sentences = []
    if report.assumed:
        sentences.append(
            f"what is assumed leaves no trace in the file ({', '.join(report.assumed)})"
        )
    if "positions" in report.assumed:
        sentences.append(NO_TABLE)
    if report.assumed and beware:
        sentences.append(beware)
    if "final_norm" in report.assumed:
        sentences += hints
    if not report.config.norm_bias:
        sentences.append(RMS)
    if pads(configs):
        sentences.append(PADDING)
    return sentences

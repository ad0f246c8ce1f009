"""The report on a checkpoint's config: the source of each field, and the wording of the warnings.

The sentences have no full stop. `commands/fields_page.py` prints them with the fields; its labels
and phrases are here too. `verify` words what is assumed itself, in `commands/verify_page.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxgpt.seq2seq_config import config_of, field_of

from ..names.config_words import pads
from .values import Evidence

SIZES = ("vocab_size", "context_length", "model_dim", "num_blocks", "num_heads")


PADDING = (
    "its config names a padding token: if the class hides that token from attention, the two "
    "differ, because this model does not hide it"
)

# The labels of the fields by source; before a file is converted, fields would be assumed.
READ, GIVEN, ASSUMED, WOULD_BE_ASSUMED = "read", "given", "assumed", "would be assumed"
FOUND = "found with the class"
USUAL = "and the usual"  # before fields with the value that nearly every class has
HOW_TO_SET = "To set one yourself:"  # before an option for each assumed field
SELDOM_SET = "and in the same way, though few classes differ in these:"  # before the others


@dataclass(frozen=True)
class Report:
    """The fields of ModelConfig by source; each is in exactly one of the four dicts."""

    read: dict[str, Any]  # shown by tensors, or by a config in the file or alongside it
    given: dict[str, Any]  # set by the caller
    assumed: dict[str, Any]  # the dialect's usual values, for all others
    # What may be wrong besides what is assumed, as sentences without a full stop.
    other_caveats: list[str] = field(default_factory=list)
    # Shown by running the file's own class.
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def assumption(self) -> str:
        """The sentence on the assumed fields; "" if there are none."""
        return assumption(tuple(self.assumed))

    @property
    def caveats(self) -> list[str]:
        """The sentences on what may be wrong, that on the assumed fields first."""
        return [sentence for sentence in (self.assumption, *self.other_caveats) if sentence]

    @property
    def fields(self) -> dict[str, dict[str, Any]]:
        """The fields by source, for JSON."""
        by_class = {"found": self.found} if self.found else {}
        return {"read": self.read, "given": self.given, "assumed": self.assumed, **by_class}

    @property
    def config(self) -> Any:
        """The ModelConfig, or the Seq2SeqConfig of an encoder-decoder."""
        return config_of({**self.read, **self.given, **self.assumed, **self.found})

    @property
    def summary(self) -> str:
        """The sizes of the model and the names of the assumed fields, in two lines."""
        sizes = ", ".join(f"{name}={field_of(self.config, name)}" for name in SIZES)
        return f"GPT({sizes}),\n  assumed: {', '.join(self.assumed) or 'nothing'}"


def assumption(fields: Sequence[str]) -> str:
    """The sentence on the assumed `fields`; "" if there are none."""
    if not fields:
        return ""
    return f"these fields leave no trace in the file and are assumed: {', '.join(fields)}"


def other_caveats(
    assumed: Sequence[str], evidence: Evidence, configs: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """The sentences on what may be wrong besides the fields `assumed`."""
    sentences = []
    if assumed and evidence.dialect.beware:
        sentences.append(evidence.dialect.beware)
    sentences += [hint for field, hint in evidence.hints.items() if field in assumed]
    if pads(configs):
        sentences.append(PADDING)
    return sentences

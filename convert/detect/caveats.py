"""The wording of the warnings about a config: which fields are assumed, and what may be wrong.

Sentences without a full stop; `commands/fields_page.py` prints them with the fields.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxgpt.config import ModelConfig

from ..names.config_words import pads
from .values import Evidence

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


def assumption(fields: Sequence[str]) -> str:
    """The sentence on the assumed `fields`; "" if there are none."""
    return f"what is assumed leaves no trace in the file ({', '.join(fields)})" if fields else ""


def other_caveats(
    config: ModelConfig,
    assumed: Sequence[str],
    evidence: Evidence,
    configs: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """The sentences on what may be wrong besides, for the fields `assumed` and for `config`."""
    sentences = []
    if "positions" in assumed:
        sentences.append(NO_TABLE)
    if assumed and evidence.dialect.beware:
        sentences.append(evidence.dialect.beware)
    if "final_norm" in assumed:
        sentences += evidence.hints
    if not config.norm_bias:
        sentences.append(RMS)
    if pads(configs):
        sentences.append(PADDING)
    return sentences

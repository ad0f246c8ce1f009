"""The wording of the warnings about a config: which fields are assumed, and what may be wrong.

The sentences have no full stop. `commands/fields_page.py` prints them with the fields; its labels
and phrases are here too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..names.config_words import pads
from .values import Evidence

PADDING = (
    "its config names a token for padding: where the class hides it from attention, this model "
    "does not"
)


# The labels of the fields by source; before a file is converted, fields would be assumed.
READ, GIVEN, ASSUMED, WOULD_BE_ASSUMED = "read", "given", "assumed", "would be assumed"
FOUND = "found with the class"
USUAL = "and the usual"  # before fields with the value that nearly every class has
SETTLING = "Each of these would settle it:"  # before an option for each assumed field
LIKEWISE = "and likewise, though few classes differ in them:"  # before the others


def assumption(fields: Sequence[str]) -> str:
    """The sentence on the assumed `fields`; "" if there are none."""
    return f"what is assumed leaves no trace in the file ({', '.join(fields)})" if fields else ""


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

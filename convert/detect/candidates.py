"""The dialects to try on a file: by its config, and by the names of its tensors.

Fitting one dialect takes milliseconds, and there are many.
"""

import re
from collections.abc import Collection, Iterable

from ..dialects import DIALECTS
from ..names.stated import stated_fields
from ..rows.dialect import Dialect
from ..rows.pattern import label_words
from .refusals import Inputs, require_supported_kinds

NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # a part of a name that is a number


def candidates(inputs: Inputs) -> list[Dialect]:
    """The dialects to try: those of the Hugging Face class that a config names, otherwise all."""
    named_kinds = require_supported_kinds(inputs)
    chosen = [
        dialect
        for dialect in DIALECTS.values()
        if named_kinds & dialect.says.get("model_type", {}).keys()
    ]
    for dialect in chosen[:1]:  # a config that cannot be followed is told before tensors are
        stated_fields(inputs.configs, dialect, inputs.path, inputs.given)
    return chosen or list(DIALECTS.values())


def plausible(dialects: Iterable[Dialect], names: Iterable[str]) -> list[Dialect]:
    """Those of `dialects` that have a row for each of `names`."""
    # One name stands for all that differ from it only in the number of a layer.
    alike = {NUMBER.sub("0", name): name for name in names}
    examples = sorted(alike.values(), key=len, reverse=True)  # long ones tell more dialects apart
    return [dialect for dialect in dialects if _knows(dialect, examples)]


def _knows(dialect: Dialect, names: Collection[str]) -> bool:
    """Whether a reading of `dialect` has a row for each of `names`."""
    for reading in (dialect, *dialect.readings):
        words = label_words(reading.spellings)
        rows = [(row.torch.may_match, row.torch.matcher(words)) for row in reading.rows]
        if all(any(may_match(name) and match(name) for may_match, match in rows) for name in names):
            return True
    return False

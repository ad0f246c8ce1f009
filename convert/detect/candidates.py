"""The dialects to try on a file, by its config."""

from ..dialects import DIALECTS
from ..names.stated import stated_fields
from ..rows.dialect import Dialect
from .inputs import Inputs
from .refusals import require_supported_kinds


def candidates(inputs: Inputs) -> list[Dialect]:
    """The dialects to try: those of the Hugging Face class that a config names, otherwise all."""
    named_kinds = require_supported_kinds(inputs)
    chosen = [
        dialect
        for dialect in DIALECTS.values()
        if named_kinds & dialect.says.get("model_type", {}).keys()
    ]
    for dialect in chosen[
        :1
    ]:  # report a config that cannot be followed before any problem with tensors
        stated_fields(inputs.configs, dialect, inputs.path, inputs.given)
    families = [dialect for dialect in DIALECTS.values() if dialect.family]
    return families if inputs.renamed else chosen or list(DIALECTS.values())

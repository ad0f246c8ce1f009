"""Proves that a file's class and the converted model compute the same."""

from ..loaded import Loaded
from ..measuring.settled_file import File
from ..measuring.subject import Differs
from .example import example_for
from .other_weights import Pair, with_random_constants
from .parity import compare, compare_prefix


def prove(file: File, loaded: Loaded) -> None:
    """Raise Differs unless the class of `file` and the model compute the same, stage by stage."""
    first = _first_difference(file, loaded)
    if first:
        raise Differs.first_in(
            first, "with all fields as the class has them", file.inspected.source.path
        )


def _first_difference(file: File, loaded: Loaded) -> str | None:
    """The first stage that differs; with constant tensors varied where there are any."""
    module, inspected = file.peer.module, file.inspected
    example = example_for(loaded.config, hidden=file.hidden)
    tokens = example.inputs
    dialect = inspected.detected.dialect
    if first := compare(module, loaded.model, tokens, dialect).first_difference:
        return first
    short = compare_prefix(module, tokens)
    if short and not short.same:
        return short.name
    pair = with_random_constants(Pair(module, loaded.model, example), inspected, file.peer.names)
    if not pair:
        return None
    first = compare(pair.module, pair.model, tokens, dialect).first_difference
    return f"{first}, where constant tensors are varied" if first else None

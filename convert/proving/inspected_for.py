"""Inspects a checkpoint that should hold a model of a known config."""

from typing import Any

from jaxgpt.seq2seq_config import ENCODER, AnyConfig, as_options, field_of

from .. import api
from ..detect.errors import Asked
from ..files import checkpoints
from ..rows.arranged import ORDERS


def inspected_for(
    source: checkpoints.Checkpoint, config: AnyConfig, dialect: str | None, ignore_config: bool
) -> api.Inspected:
    """Inspect `source`, taking fields that it leaves open from the directory's `config`.

    An example is the number of heads in a fused matrix.
    """
    answers: dict[str, Any] = {}
    while True:
        try:
            inspected = api.inspect(
                source, dialect=dialect, ignore_config=ignore_config, **as_options(answers)
            )
            orders = _other_orders(inspected, config)
            if not orders:
                return inspected
            answers |= orders
        except Asked as asked:
            if asked.field in answers:
                raise
            answers[asked.field] = field_of(config, asked.field)


def _other_orders(inspected: api.Inspected, config: AnyConfig) -> dict[str, Any]:
    """The orders within matrices that are assumed for a file, and other ones in `config`."""
    assumed = inspected.detected.report.assumed
    return {
        name: field_of(config, name)
        for name, value in assumed.items()
        if name.removeprefix(ENCODER) in ORDERS and field_of(config, name) != value
    }

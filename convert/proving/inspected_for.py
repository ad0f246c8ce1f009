"""Inspects a checkpoint as that of a model whose config is known."""

from typing import Any

from jaxgpt.seq2seq_config import AnyConfig, as_options, field_of

from .. import api
from ..detect.refusals import Asked
from ..files import checkpoints


def inspected_for(
    source: checkpoints.Checkpoint, config: AnyConfig, dialect: str | None, ignore_config: bool
) -> api.Inspected:
    """Inspect `source`, taking fields that it leaves open from the directory's `config`.

    An example is the number of heads in a fused matrix.
    """
    answers: dict[str, Any] = {}
    while True:
        try:
            return api.inspect(
                source, dialect=dialect, ignore_config=ignore_config, **as_options(answers)
            )
        except Asked as asked:
            if asked.field in answers:
                raise
            answers[asked.field] = field_of(config, asked.field)

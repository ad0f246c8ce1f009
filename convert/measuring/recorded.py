"""A recorded run of a class whose tensors no dialect knows."""

from collections.abc import Sequence

import torch

from jaxgpt.errors import UserError

from ..detect.inputs import Inputs
from ..foreign.config_objects import NOTHING, parameters
from ..foreign.peer import Peer
from ..foreign.with_context import Caller
from .trace import Seen, Trace
from .trace_reader import Reader

LARGE = 2**40  # no value has so many numbers, so that none is recorded
ROWS, LENGTH = 4, 3
OF_TWO_TEXTS = (
    "No dialect knows the names of these tensors, and what they are is found by running the class "
    "on one text alone. If it takes two, a source and a target, rename its tensors as a known "
    "encoder-decoder has them, or describe the class in a file of convert/dialects."
)


class NotRun(UserError):
    """The class does not run on one text alone."""


def recorded(ways: Sequence[Inputs], peer: Peer) -> tuple[Inputs, Reader]:
    """The first of `ways` to name the tensors that shows the blocks; a recorded run with them."""
    try:
        return ways[0], _reader_of(ways[0], peer)
    except UserError:
        if len(ways) == 1:
            raise
    return recorded(ways[1:], peer)


def _reader_of(inputs: Inputs, peer: Peer) -> Reader:
    new = inputs.renamed.names if inputs.renamed else {}
    names = {theirs: new.get(own, own) for own, theirs in peer.names.items()}
    run = Caller(peer.module)
    ids = torch.arange(ROWS * LENGTH).reshape(ROWS, LENGTH) % 5
    ids[1] = ids[0]
    try:
        seen = Seen.of(Trace(peer.module, names, LARGE), run, ids, LARGE)
    except UserError as error:
        raise NotRun(f"{inputs.path}: {error} {_hint(peer)}") from None
    return Reader(seen, inputs.shapes, inputs.read)


def _hint(peer: Peer) -> str:
    """What may be the reason that the class fails on one text."""
    asked = [p for p in parameters(peer.module.forward) if p.default is NOTHING]
    if len(asked) > 1 or not peer.answers.caveats:
        return OF_TWO_TEXTS
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in peer.answers.caveats)

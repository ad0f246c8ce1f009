"""A recorded run of a class whose tensors no dialect knows."""

from collections.abc import Sequence

import torch

from jaxgpt.errors import UserError

from ..detect.inputs import Inputs
from ..foreign.config_objects import NOTHING, parameters
from ..foreign.peer import Peer
from ..foreign.with_context import Caller
from ..renaming.pair_guesses import why_odd
from .trace import Seen, Trace
from .trace_reader import Reader

LARGE = 2**40  # no value has so many numbers, so that none is recorded
ROWS, LENGTH = 4, 3
OF_TWO_TEXTS = (
    "no dialect knows the names of its tensors, and neither words nor shapes show them to be those "
    "of an encoder-decoder that the model here can be. Unknown tensors are found by running the "
    "class only if it takes one text alone. Rename the tensors as a known class has them, or "
    "describe the class in a file of convert/dialects"
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
        if why := why_odd(inputs.shapes, inputs.path):
            raise NotRun(why) from None
        raise NotRun(f"{inputs.path}: {_reason(peer, error)}") from None
    return Reader(seen, inputs.shapes, inputs.read)


def _reason(peer: Peer, error: UserError) -> str:
    """Why the class fails on one text, with `error`."""
    asked = [p for p in parameters(peer.module.forward) if p.default is NOTHING]
    if len(asked) > 1 or type(peer.module).forward is torch.nn.Module.forward:
        return f"{OF_TWO_TEXTS}."
    hints = peer.answers.caveats or [OF_TWO_TEXTS]
    return " ".join([str(error), *(f"{text[0].upper()}{text[1:]}." for text in hints)])

"""The usual names of the tensors of encoder-decoders, and of decoders that attend to a memory.

Shapes, words and numbers identify the parts of a class. Where these leave several readings, all of
them are proposed, and running the class shows which is right.
"""

import itertools
from collections.abc import Iterator

from ..names.tensor_names import Table
from .pair_blocks import Block, ways_of_blocks
from .pair_ends import ways_of_ends

MOST_WAYS = 300
LAYER = "{layer}."
ENCODER, DECODER = f"encoder.layers.{LAYER}", f"decoder.layers.{LAYER}"


def ways_of_pair(
    table: Table, width: int, evidence: str, ordered: bool
) -> Iterator[dict[str, str]]:
    """Yield the usual names once for each reading of `table` as an encoder-decoder.

    Names in `table` have {layer} for the number of a block, and its one or two lists of blocks
    have the names that `usual_names` gives them. The model has `width`; `evidence` is WORDS or
    SHAPES of `attention_roles`; `ordered` is whether the file has the order of the class.
    """
    blocks = first_blocks(table, width)
    counts = [1, 2] if len(blocks) == 2 else [2]
    if not blocks or not all(map(Block.has, blocks.values(), counts)):
        return
    outside = {name: shape for name, shape in table.items() if LAYER not in name}
    ends = ways_of_ends(outside, width, alone=len(blocks) == 1)
    inside = ways_of_blocks([*blocks.values()], width, evidence, ordered)
    ways = ((end, own) for own in inside for end in ends)
    for end, own in itertools.islice(ways, MOST_WAYS):
        of_blocks = {
            stem + name: stem + new
            for stem, names_in in zip(blocks, own, strict=True)
            for name, new in names_in.items()
        }
        yield {name: end.get(name) or of_blocks.get(name) or name for name in table}


def first_blocks(table: Table, width: int) -> dict[str, Block]:
    """The first block of each list of blocks in `table`, the decoder's last, by the list's prefix.

    Empty if the lists cannot be those of an encoder-decoder, or of a decoder alone.
    """
    stems = list(dict.fromkeys(n.partition(LAYER)[0] + LAYER for n in table if LAYER in n))
    two = {*stems} == {ENCODER, DECODER}
    if not two and len(stems) != 1:
        return {}
    return {
        stem: Block.of(
            {n.removeprefix(stem): shape for n, shape in table.items() if n.startswith(stem)}, width
        )
        for stem in ([ENCODER, DECODER] if two else stems)
    }

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
    stems = list(dict.fromkeys(n.partition(LAYER)[0] + LAYER for n in table if LAYER in n))
    two = {*stems} == {ENCODER, DECODER}
    if not two and len(stems) != 1:
        return
    stems = [ENCODER, DECODER] if two else stems
    inside = [
        {name.removeprefix(stem): shape for name, shape in table.items() if name.startswith(stem)}
        for stem in stems
    ]
    blocks = [Block.of(tensors, width) for tensors in inside]
    counts = [1, 2] if two else [2]
    if not all(block.has(count) for block, count in zip(blocks, counts, strict=True)):
        return
    outside = {name: shape for name, shape in table.items() if LAYER not in name}
    ends = ways_of_ends(outside, width, alone=not two)
    ways = ((end, own) for own in ways_of_blocks(blocks, width, evidence, ordered) for end in ends)
    for end, own in itertools.islice(ways, MOST_WAYS):
        of_blocks = {
            stem + name: stem + new
            for stem, names_in in zip(stems, own, strict=True)
            for name, new in names_in.items()
        }
        yield {name: end.get(name) or of_blocks.get(name) or name for name in table}

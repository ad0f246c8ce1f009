"""The matrices that the kernels of the blocks consist of: which axes are inputs, which outputs."""

from typing import NamedTuple


class Matrix(NamedTuple):
    """The axes of a stacked kernel that make one matrix; along all others there are several."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


# By the name of the layer, in shapes with the axis of layers in front. Layers are matrices of their
# own, and so are queries, keys and values, and gate and up, as in the PyTorch classes that do not
# fuse them. Where a key head has several query heads, the first of each are one matrix, the second
# another one, each as large as that of the keys.
KERNELS = {
    "qkv": Matrix((1,), (2, 4)),
    "out": Matrix((1, 2), (3,)),
    "up": Matrix((1,), (2,)),
    "gate_up": Matrix((1,), (3,)),
    "down": Matrix((1,), (2,)),
}


def matrix_of(name: str) -> Matrix | None:
    """The matrix axes of the parameter `name`, a path; None for all but kernels of blocks."""
    *parents, leaf = name.split("/")
    if leaf != "kernel" or "blocks" not in parents:
        return None
    return KERNELS[parents[-1]]

"""The matrices in the kernels of the blocks: which axes are inputs, and which are outputs."""

from typing import NamedTuple


class Matrix(NamedTuple):
    """The axes of a stacked kernel that form one matrix; along all other axes there are several."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


# By the name of the linear layer; the first axis of a kernel is that of the blocks. Each block has
# matrices of its own, and queries, keys and values are separate matrices, as are gate and up, as in
# the PyTorch classes that do not fuse them. Where several query heads share a key head, the first
# query heads of all key heads are one matrix, the second ones another, and so on, each as large as
# the matrix of the keys.
KERNELS = {
    "qkv": Matrix((1,), (2, 4)),
    "out": Matrix((1, 2), (3,)),
    "up": Matrix((1,), (2,)),
    "gate_up": Matrix((1,), (3,)),
    "down": Matrix((1,), (2,)),
}


def matrix_of(name: str) -> Matrix | None:
    """The matrix axes of the parameter `name`, a path; None unless it is a kernel of the blocks."""
    *parents, leaf = name.split("/")
    if leaf != "kernel" or "blocks" not in parents:
        return None
    return KERNELS[parents[-1]]

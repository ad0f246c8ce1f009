"""flax_model.msgpack, which transformers' Flax classes wrote: nested maps of names to arrays.

Gives the tensors the names and the layout that the PyTorch class of the same name has.
"""

import functools
import math
from collections.abc import Collection
from pathlib import Path

import numpy as np

from jaxgpt.errors import in_a_row

from .contents import Contents, Tensor
from .msgpack_reader import Array, Reader
from .safefile import piece, shorter

# The name of a parameter in Flax -> its name in torch. Kernels are transposed: a Dense has (in,
# out), a Linear (out, in), and transformers reversed the kernels of its Conv1D as well.
NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
ROOTS = ("params",)  # a map that some programs wrap around the model
CONTAINER = "Flax msgpack"


def load(path: Path) -> Contents:
    """The tensors of the file at `path`, under torch's names."""
    with path.open("rb") as file:
        reader = Reader(path, file)
        arrays = dict(reader.entries(()))
        if file.tell() != reader.size:
            reader.refuse(f"its map ends at byte {file.tell()} of {reader.size}")
    tensors: dict[str, Tensor] = {}
    for names, name in zip(arrays, torch_names(arrays), strict=True):
        if name in tensors:
            reader.refuse(f"two of its arrays are both {in_a_row([name])} in torch")
        dtype, shape, _ = array = arrays[names]
        read = functools.partial(_read, path, array)
        tensors[name] = Tensor(shape, dtype, read)
        if names[-1] == "kernel":
            tensors[name] = Tensor(shape[::-1], dtype, functools.partial(_transposed, read))
    return Contents(CONTAINER, tensors)


def torch_names(paths: Collection[tuple[str, ...]]) -> list[str]:
    """The names in torch of the arrays at `paths`."""
    rooted = all(names[0] in ROOTS and len(names) > 1 for names in paths)
    inner = (names[1:] if rooted else names for names in paths)
    return [".".join((*names[:-1], NAMES.get(names[-1], names[-1]))) for names in inner]


def _read(path: Path, array: Array) -> np.ndarray:
    """The `array` of the file at `path`, read-only."""
    dtype, shape, chunks = array
    if len(chunks) == 1:
        return piece(path, dtype, shape, *chunks)
    values = np.empty(math.prod(shape), dtype)
    rest = values.view(np.uint8).data
    with path.open("rb") as file:
        for start, size in chunks.items():
            file.seek(start)
            if file.readinto(rest[:size]) != size:
                raise shorter(path)
            rest = rest[size:]
    values = values.reshape(shape)
    values.flags.writeable = False
    return values


def _transposed(read: functools.partial[np.ndarray]) -> np.ndarray:
    array = np.ascontiguousarray(read().T)
    array.flags.writeable = False
    return array

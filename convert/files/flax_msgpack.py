"""flax_model.msgpack, which transformers' Flax classes wrote: nested maps of names to arrays.

Gives the tensors the names and the layout that the PyTorch class of the same name has. Reads the
format byte by byte, with sizes checked before anything is read, and runs no code.
"""

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from jaxgpt.errors import UserError, in_a_row

from ..dtypes import BY_NAME
from .contents import Contents, Tensor
from .safefile import piece

# What Flax calls a parameter -> what torch calls it. Kernels are transposed: (in, out) of a Dense
# is (out, in) of a Linear, and transformers stored those of its Conv1D the other way round as well.
NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
ROOTS = ("params",)  # a map that some programs put around the model
ARRAY = 1  # the number of Flax's extension type for arrays
MOST_DEPTH, MOST_ENTRIES, MOST_TEXT, MOST_AXES = 32, 100_000, 1000, 8
# The first byte of a value -> the number of bytes that say its length.
MAPS, LISTS = {0xDE: 2, 0xDF: 4}, {0xDC: 2, 0xDD: 4}
TEXTS, BYTES = {0xD9: 1, 0xDA: 2, 0xDB: 4}, {0xC4: 1, 0xC5: 2, 0xC6: 4}
EXTENSIONS, FIXED = {0xC7: 1, 0xC8: 2, 0xC9: 4}, {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
NUMBERS = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}


def is_msgpack(head: bytes) -> bool:
    """Whether `head` begins with a map whose first key is a text."""
    short = 0x80 < head[:1].ljust(1)[0] < 0x90
    first = 1 if short else 1 + MAPS.get(head[:1].ljust(1)[0], len(head))
    return any(0xA0 < byte < 0xC0 or byte in TEXTS for byte in head[first : first + 1])


def load(path: Path) -> Contents:
    """The tensors of the file at `path`, under torch's names."""
    with path.open("rb") as file:
        reader = Reader(path, file)
        arrays = dict(reader.entries(()))
        if file.tell() != reader.size:
            reader.refuse(f"its map ends at byte {file.tell()} of {reader.size}")
    if all(names[0] in ROOTS and len(names) > 1 for names in arrays):
        arrays = {names[1:]: array for names, array in arrays.items()}
    tensors: dict[str, Tensor] = {}
    for names, (dtype, shape, start) in arrays.items():
        name = ".".join((*names[:-1], NAMES.get(names[-1], names[-1])))
        if name in tensors:
            reader.refuse(f"two of its arrays are both {in_a_row([name])} in torch")
        read = functools.partial(piece, path, dtype, shape, start)
        tensors[name] = Tensor(shape, dtype, read)
        if names[-1] == "kernel":
            tensors[name] = Tensor(shape[::-1], dtype, functools.partial(_transposed, read))
    return Contents("Flax msgpack", tensors)


def _transposed(read: functools.partial[np.ndarray]) -> np.ndarray:
    array = np.ascontiguousarray(read().T)
    array.flags.writeable = False
    return array


Array = tuple[np.dtype, tuple[int, ...], int]  # dtype, shape, the place of its first byte


class Reader:
    """Reads names and the places of arrays, and skips their numbers."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.file, self.size = path, file, path.stat().st_size
        self.seen = 0

    def refuse(self, why: str) -> None:
        """Raise UserError with the reason `why`."""
        raise UserError(
            f"{self.path} begins as a msgpack file but is not a model that Flax wrote: {why}. Copy "
            "or download it again."
        )

    def entries(self, outer: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Array]]:
        """The arrays of the map that begins here, each with the names that lead to it."""
        count = self._length(self._byte(), MAPS, range(0x80, 0x90), "a map")
        if len(outer) > MOST_DEPTH:
            self.refuse(f"its maps are nested more than {MOST_DEPTH} deep")
        keys: set[str] = set()
        for _ in range(count):
            self.seen += 1
            if self.seen > MOST_ENTRIES:
                self.refuse(f"it has more than {MOST_ENTRIES} names")
            key = self._text()
            if key in keys or not key:
                self.refuse(f"the name {in_a_row([key]) or 'of no letters'} is there twice")
            keys.add(key)
            names = (*outer, key)
            first = self._byte()
            if first in MAPS or 0x80 <= first < 0x90:
                self.file.seek(-1, 1)
                yield from self.entries(names)
            else:
                yield names, self._array(first, names)

    def _array(self, first: int, names: tuple[str, ...]) -> Array:
        """The array whose extension begins with the byte `first`; its numbers are skipped."""
        name = in_a_row(["/".join(names)])
        if first not in EXTENSIONS and first not in FIXED:
            self.refuse(f"{name} is no array")
        length = FIXED.get(first) or self._number(EXTENSIONS.get(first, 1))
        kind, end = self._byte(), self.file.tell() + length
        if kind != ARRAY or end > self.size:
            self.refuse(f"{name} is no array, or should end at byte {end} of {self.size}")
        if self._byte() != 0x93:
            self.refuse(f"{name} has no shape, dtype and numbers")
        axes = self._length(self._byte(), LISTS, range(0x90, 0xA0), f"the shape of {name}")
        if axes > MOST_AXES:
            self.refuse(f"{name} has {axes} axes")
        shape = tuple(self._size() for _ in range(axes))
        dtype = BY_NAME.get(word := self._text())
        if dtype is None:
            self.refuse(f"{name} has the dtype {in_a_row([word])}")
        assert dtype is not None
        count = self._length(self._byte(), BYTES, range(0), f"the numbers of {name}")
        start, wanted = self.file.tell(), math.prod(shape) * dtype.itemsize
        if count != wanted or start + count != end:
            self.refuse(f"{name} is {dtype} {shape}, {wanted} bytes, but has {count}")
        self.file.seek(end)
        return dtype, shape, start

    def _length(self, first: int, kinds: dict[int, int], short: range, what: str) -> int:
        """The length of `what`, which begins with `first`: in that byte, or in those after it."""
        if first in short:
            return first - short.start
        if first not in kinds:
            self.refuse(f"{what} should begin at byte {self.file.tell() - 1}")
        return self._number(kinds[first])

    def _text(self) -> str:
        length = self._length(self._byte(), TEXTS, range(0xA0, 0xC0), "a name")
        if length > MOST_TEXT:
            self.refuse(f"it has a name of {length} bytes")
        data = self._bytes(length)
        try:
            return data.decode()
        except UnicodeDecodeError:
            self.refuse(f"the name that ends at byte {self.file.tell()} is not UTF-8")
            raise

    def _size(self) -> int:
        first = self._byte()
        if first < 0x80:
            return first
        if first not in NUMBERS:
            self.refuse(f"the byte before {self.file.tell()} is not the size of an axis")
        return self._number(NUMBERS[first])

    def _byte(self) -> int:
        return self._number(1)

    def _number(self, width: int) -> int:
        return int.from_bytes(self._bytes(width), "big")

    def _bytes(self, count: int) -> bytes:
        """The next `count` bytes, which are few."""
        data = self.file.read(count)
        if len(data) < count:
            self.refuse(f"it ends at byte {self.size}, in the middle of a value")
        return data

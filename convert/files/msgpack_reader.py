"""Reads msgpack files of Flax: nested maps from names to arrays, whose values are skipped.

Every size is checked before anything is read. An array of more than 1 GiB is stored as a map with
its shape and its chunks, which are arrays of one axis.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from jaxgpt.errors import UserError, in_a_row

from ..dtypes import BY_NAME

ARRAY = 1  # the number of Flax's extension type for arrays
CHUNKED, TRUE = "__msgpack_chunked_array__", 0xC3  # the first entry of an array in chunks
MOST_DEPTH, MOST_ENTRIES, MOST_TEXT, MOST_AXES = 32, 100_000, 1000, 8
# The first byte of a value -> the number of bytes that hold its length.
MAPS, LISTS = {0xDE: 2, 0xDF: 4}, {0xDC: 2, 0xDD: 4}
TEXTS, BYTES = {0xD9: 1, 0xDA: 2, 0xDB: 4}, {0xC4: 1, 0xC5: 2, 0xC6: 4}
EXTENSIONS, FIXED = {0xC7: 1, 0xC8: 2, 0xC9: 4}, {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
NUMBERS = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}


def is_msgpack(head: bytes) -> bool:
    """Whether `head` begins with a map whose first key is a text."""
    short = 0x80 < head[:1].ljust(1)[0] < 0x90
    first = 1 if short else 1 + MAPS.get(head[:1].ljust(1)[0], len(head))
    return any(0xA0 < byte < 0xC0 or byte in TEXTS for byte in head[first : first + 1])


class Array(NamedTuple):
    """The place of an array in a file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    chunks: dict[int, int]  # offset of each chunk, in order -> its size


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
        """The arrays of the map that begins here, each with its path of names."""
        count = self._length(self._byte(), MAPS, range(0x80, 0x90), "a map")
        if len(outer) > MOST_DEPTH:
            self.refuse(f"its maps are nested more than {MOST_DEPTH} deep")
        keys: set[str] = set()
        for _ in range(count):
            key = self._key()
            if key == CHUNKED and outer and not keys:
                yield outer, self._chunked(count, in_a_row(["/".join(outer)]))
                return
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
            self.refuse(f"{name} is not an array")
        length = FIXED.get(first) or self._number(EXTENSIONS.get(first, 1))
        kind, end = self._byte(), self.file.tell() + length
        if kind != ARRAY or end > self.size:
            self.refuse(f"{name} is not an array, or should end at byte {end} of {self.size}")
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
        return Array(dtype, shape, {start: wanted})

    def _chunked(self, count: int, name: str) -> Array:
        """The array `name` in chunks, a map of `count` entries whose first key has been read.

        Its value is True; then come a map of the sizes of all axes, and a map of the chunks.
        """
        if count != 3 or self._byte() != TRUE:
            self.refuse(f"{name} has no shape and chunks")
        shape = tuple(self._size() for _ in self._numbered("shape", name))
        chunks = [
            self._array(self._byte(), (name, "chunks", key))
            for key in self._numbered("chunks", name)
        ]
        if len(shape) > MOST_AXES or any(len(chunk.shape) != 1 for chunk in chunks):
            self.refuse(f"{name} has {len(shape)} axes, and chunks that are not rows of numbers")
        held, wanted = sum(chunk.shape[0] for chunk in chunks), math.prod(shape)
        dtypes = {chunk.dtype for chunk in chunks}
        if held != wanted or len(dtypes) != 1:
            kinds = ", ".join(sorted(map(str, dtypes))) or "no dtype"
            self.refuse(
                f"{name} is {shape}, {wanted} numbers of one dtype, but its chunks have {held} of "
                f"{kinds}"
            )
        places = {start: size for chunk in chunks for start, size in chunk.chunks.items()}
        return Array(dtypes.pop(), shape, places)

    def _numbered(self, what: str, name: str) -> Iterator[str]:
        """Yield each key of the map `what` of the array `name`, a number, before its value."""
        if (key := self._key()) != what:
            self.refuse(f"{name} has {in_a_row([key])} where its {what} should be")
        count = self._length(self._byte(), MAPS, range(0x80, 0x90), f"the {what} of {name}")
        for number in range(count):
            if (key := self._key()) != str(number):
                self.refuse(f"the {what} of {name} lacks number {number}: {in_a_row([key])} comes")
            yield key

    def _key(self) -> str:
        """The next name in a map."""
        self.seen += 1
        if self.seen > MOST_ENTRIES:
            self.refuse(f"it has more than {MOST_ENTRIES} names")
        return self._text()

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
        """The next `count` bytes; `count` is small."""
        data = self.file.read(count)
        if len(data) < count:
            self.refuse(f"it ends at byte {self.size}, in the middle of a value")
        return data

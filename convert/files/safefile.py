"""One safetensors file, opened or written. Independent of dialects, models and other formats."""

import functools
import itertools
import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from jaxgpt.errors import UserError, in_a_row, is_of_the_system

from ..dtypes import BY_CODE, CODES
from ..streams import Described, bits
from .contents import Contents, Tensor


def is_safetensors(head: bytes) -> bool:
    """Whether `head` begins with the length of a JSON header, below 4 GB, and its opening
    bracket."""
    return head[8:9] == b"{" and head[4:8] == bytes(4)


def load(path: Path) -> Contents:
    """The tensors of the file at `path`; the library checks its header first."""
    try:
        with safetensors.safe_open(path, framework="numpy") as handle:
            metadata, names = handle.metadata() or {}, handle.offset_keys()
    except Exception as error:  # the library's own exception class, or OSError
        if is_of_the_system(error):
            raise
        raise UserError(
            f"{path} begins as a safetensors file but is not a whole one: {declared(path)} "
            f"({in_a_row([str(error)])}). Copy or download it again."
        ) from None
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    data = 8 + length
    return Contents(
        "safetensors", {name: _tensor(path, header[name], data) for name in names}, metadata
    )


def _tensor(path: Path, entry: Mapping[str, Any], data: int) -> Tensor:
    """The tensor of a header's `entry`, in a file whose data begin at byte `data`."""
    shape, dtype = tuple(entry["shape"]), BY_CODE.get(entry["dtype"], entry["dtype"])
    start = data + entry["data_offsets"][0]
    return Tensor(shape, dtype, functools.partial(piece, path, dtype, shape, start))


def piece(path: Path, dtype: np.dtype, shape: tuple[int, ...], start: int) -> np.ndarray:
    """The array at byte `start` of a file, read-only.

    The file is not mapped, because mapped pages would stay in memory next to the converted arrays.
    """
    array = np.fromfile(path, dtype, math.prod(shape), offset=start)
    if array.size != math.prod(shape):
        raise shorter(path)
    array = array.reshape(shape)
    array.flags.writeable = False
    return array


def shorter(path: Path) -> UserError:
    """The error for a file that now ends before one of its tensors."""
    return UserError(
        f"{path} became shorter while it was read. Try again when nothing writes to it."
    )


def declared(path: Path) -> str:
    """The size that a broken file declares, and the size that it has."""
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if 8 + length > size:
            return f"its header alone should end at byte {8 + length}, but it has {size} bytes"
        try:
            header = json.loads(file.read(length))
            tensors = [info for name, info in header.items() if name != "__metadata__"]
            end = max(info["data_offsets"][1] for info in tensors)
            return f"by its header it should have {8 + length + end} bytes, and it has {size}"
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return f"its header of {length} bytes is not one, in a file of {size} bytes"


class Writer:
    """A safetensors file that is written tensor by tensor, in any order.

    The library's own writer needs all tensors at once, and writes wrong values for non-contiguous
    arrays.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Described]):
        # Wide items first, so that each tensor begins at a multiple of its item size, as readers
        # that map the file expect.
        order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers requires it
        ends = list(itertools.accumulate((tensors[name].nbytes for name in order), initial=0))
        for name, offsets in zip(order, itertools.pairwise(ends), strict=True):
            code = CODES[tensors[name].dtype]
            header[name] = {"dtype": code, "shape": tensors[name].shape, "data_offsets": offsets}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        path.write_bytes(struct.pack("<Q", len(text)) + text)
        self._path = path
        self._starts = {
            name: 8 + len(text) + start for name, start in zip(order, ends, strict=False)
        }

    def put(self, names: Sequence[str], array: np.ndarray) -> int:
        """Write `array` under all of `names`, and return the CRC-32 of its bytes."""
        content = bits(array).data
        with self._path.open("r+b") as file:
            for name in names:
                file.seek(self._starts[name])
                file.write(content)
        return zlib.crc32(content)

"""One safetensors file, opened or written. Knows no dialect, no model and no other format."""

import functools
import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
import safetensors

from jaxgpt.errors import UserError, in_a_row

DTYPES = {
    "BOOL": np.dtype(bool),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "C64": np.dtype("complex64"),
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


def is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and head[4:8] == bytes(
        4
    )  # the header's length, below 4 GB, then its JSON


def load(path: Path) -> tuple[dict[str, tuple], dict[str, str]]:
    """name -> (shape, dtype or the name of a kind that numpy has not, a function that reads it), and the metadata."""
    try:
        with safetensors.safe_open(path, framework="numpy") as handle:
            metadata, names = handle.metadata() or {}, handle.offset_keys()
    except Exception as error:  # its own kind of error, or an OSError
        raise UserError(
            f"{path} begins as a safetensors file but is not a whole one: {declared(path)} ({in_a_row([str(error)])}). "
            "Copy or download it again."
        ) from None
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    found = {}
    for name in names:
        shape, code, start = (
            tuple(header[name]["shape"]),
            header[name]["dtype"],
            header[name]["data_offsets"][0],
        )
        dtype = DTYPES.get(code, code)
        found[name] = shape, dtype, functools.partial(piece, path, dtype, shape, 8 + length + start)
    return found, metadata


def piece(path: Path, dtype: np.dtype, shape: tuple[int, ...], start: int) -> np.ndarray:
    """Of a file: not through a mapping, whose pages would stay in memory beside what is made of them."""
    array = np.fromfile(path, dtype, math.prod(shape), offset=start)
    if array.size != math.prod(shape):
        raise UserError(
            f"{path} became shorter while it was read. Try again when nothing writes to it."
        )
    array = array.reshape(shape)
    array.flags.writeable = False
    return array


def declared(path: Path) -> str:
    """How long a broken file says it is, beside how long it is."""
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if 8 + length > size:
            return f"its header alone should end at byte {8 + length}, but it has {size} bytes"
        try:
            header = json.loads(file.read(length))
            end = max(
                info["data_offsets"][1] for name, info in header.items() if name != "__metadata__"
            )
            return f"by its header it should have {8 + length + end} bytes, and it has {size}"
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return f"its header of {length} bytes is not one, in a file of {size} bytes"


def bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def save(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """Tensor by tensor, in the order given: the library's own writer sorts them, and writes wrong values for arrays
    that are not contiguous, so that all of those would have to be copied at once."""
    # Wide items first, so that each tensor begins at a multiple of its item size, as readers that map it expect.
    order = sorted(arrays, key=lambda name: -arrays[name].itemsize)
    header: dict[str, Any] = {
        "__metadata__": {"format": "pt"}
    }  # transformers opens no file without this
    end = 0
    for name in order:
        array = arrays[name]
        offsets = [end, end := end + array.nbytes]
        header[name] = {"dtype": CODES[array.dtype], "shape": array.shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for name in order:
        file.write(bits(arrays[name]).data)

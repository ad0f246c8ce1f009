"""Arrays as text, in which a model directory keeps some bit for bit among its rows."""

import base64
import math
import zlib
from collections.abc import Iterable, Sequence

import ml_dtypes
import numpy as np


def pack(array: np.ndarray) -> str:
    """The bits of `array`, compressed, in base64."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()


def pack_all(arrays: Iterable[np.ndarray]) -> tuple[str, ...]:
    """The bits of `arrays`: those of one if all have the same, or else of each."""
    bits = tuple(map(pack, arrays))
    return bits[:1] if len(set(bits)) == 1 else bits


def unpack(text: str, shape: Sequence[int], dtype: str) -> np.ndarray:
    """The array of `shape` and `dtype` that `pack` turned into `text`."""
    kind = dtype_named(dtype)
    size = math.prod(shape) * kind.itemsize
    data = zlib.decompressobj().decompress(base64.b64decode(text), max(size, 1))
    return np.frombuffer(data, kind).reshape(shape)


def dtype_named(name: str) -> np.dtype:
    """The dtype that str() calls `name`."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)

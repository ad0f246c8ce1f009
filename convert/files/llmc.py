"""llm.c's .bin files: a header that says everything, then the tensors of all layers one after the other, here under
nanoGPT's names. Imports no torch."""

import functools
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxgpt.errors import UserError

from .safefile import piece

MAGIC, HEADER = 20240326, 1024  # bytes: 256 whole numbers
BLOCK = "transformer.h.{}."
# Name, and shape in letters of the header, in the order of the file.
OUTER = (("transformer.wte.weight", "PD"), ("transformer.wpe.weight", "TD"))
INNER = (
    ("ln_1.weight", "D"), ("ln_1.bias", "D"), ("attn.c_attn.weight", "3D"), ("attn.c_attn.bias", "3"),
    ("attn.c_proj.weight", "DD"), ("attn.c_proj.bias", "D"), ("ln_2.weight", "D"), ("ln_2.bias", "D"),
    ("mlp.c_fc.weight", "4D"), ("mlp.c_fc.bias", "4"), ("mlp.c_proj.weight", "D4"), ("mlp.c_proj.bias", "D"),
)  # fmt: skip
LAST = (("transformer.ln_f.weight", "D"), ("transformer.ln_f.bias", "D"))
KINDS = (np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16))


def is_llmc(head: bytes) -> bool:
    return head[:4] == MAGIC.to_bytes(4, "little")


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(shape, dtype, read) by name, and what the header says besides. Its version numbers mean different types in
    different years, so the size of the file decides; older files do not pad the vocabulary."""
    size, numbers = path.stat().st_size, np.fromfile(path, "<i4", 8)
    if len(numbers) < 8 or min(numbers[2:7]) <= 0:
        raise UserError(
            f"{path} has the first number of an llm.c file, and not its header: {numbers.tolist()}."
        )
    context, vocabulary, layers, heads, width, padded = map(int, numbers[2:])
    for rows in {padded, vocabulary}:
        axes = {"P": rows, "T": context, "D": width, "3": 3 * width, "4": 4 * width}
        listed = [(name, tuple(axes[axis] for axis in shape)) for name, shape in OUTER]
        for name, shape in INNER:
            listed += [
                (BLOCK.format(i) + name, tuple(axes[axis] for axis in shape))
                for i in range(min(layers, 10_000))
            ]
        listed += [(name, tuple(axes[axis] for axis in shape)) for name, shape in LAST]
        total = sum(math.prod(shape) for _, shape in listed)
        for dtype in KINDS:
            if size == HEADER + total * dtype.itemsize:
                said = {"config": {"n_head": heads, "activation": "gelu_tanh", "tie_weights": True}}
                return _described(path, listed, dtype), said
    raise UserError(
        f"{path} has {size} bytes, but its header (layers {layers}, width {width}, vocabulary {vocabulary}, context "
        f"{context}) asks for {HEADER + 4 * total} in float32 or {HEADER + 2 * total} in bfloat16. Download it again."
    )


def _described(
    path: Path, listed: list[tuple[str, tuple[int, ...]]], dtype: np.dtype
) -> dict[str, Any]:
    found, offset = {}, HEADER
    for name, shape in listed:
        found[name] = (shape, dtype, functools.partial(piece, path, dtype, shape, offset))
        offset += math.prod(shape) * dtype.itemsize
    return found

"""llm.c's .bin files: a header with all sizes, then each tensor for all layers.

The tensors get nanoGPT's names. Imports no torch.
"""

import functools
import math
from pathlib import Path

import numpy as np

from jaxgpt.errors import UserError

from ..dtypes import BY_NAME
from .contents import Contents, Tensor
from .safefile import piece

MAGIC, HEADER = 20240326, 1024  # bytes: 256 whole numbers
BLOCK = "transformer.h.{}."
# Name and shape, in letters of `_axes`, in the order of the file.
OUTER = (("transformer.wte.weight", "PD"), ("transformer.wpe.weight", "TD"))
INNER = (
    ("ln_1.weight", "D"), ("ln_1.bias", "D"),
    ("attn.c_attn.weight", "3D"), ("attn.c_attn.bias", "3"),
    ("attn.c_proj.weight", "DD"), ("attn.c_proj.bias", "D"),
    ("ln_2.weight", "D"), ("ln_2.bias", "D"),
    ("mlp.c_fc.weight", "4D"), ("mlp.c_fc.bias", "4"),
    ("mlp.c_proj.weight", "D4"), ("mlp.c_proj.bias", "D"),
)  # fmt: skip
LAST = (("transformer.ln_f.weight", "D"), ("transformer.ln_f.bias", "D"))
KINDS = (BY_NAME["float32"], BY_NAME["bfloat16"])
MOST_LAYERS = 10_000

Shapes = list[tuple[str, tuple[int, ...]]]


def is_llmc(head: bytes) -> bool:
    """Whether `head` begins with the number of llm.c's files."""
    return head[:4] == MAGIC.to_bytes(4, "little")


def load(path: Path) -> Contents:
    """The tensors of the file at `path`, and what its header says of the model.

    The meaning of version numbers changed over the years, so the size of the file decides the
    dtype. Older files do not pad the vocabulary.
    """
    size, numbers = path.stat().st_size, np.fromfile(path, "<i4", 8)
    if len(numbers) < 8 or min(numbers[2:7]) <= 0:
        raise UserError(
            f"{path} begins like an llm.c file, but its header holds no valid sizes: "
            f"{numbers.tolist()}. Download it again."
        )
    context, vocabulary, layers, heads, width, padded = map(int, numbers[2:])
    for rows in (padded, vocabulary) if padded > 0 else (vocabulary,):
        shapes = _shapes(rows, context, layers, width)
        total = sum(math.prod(shape) for _, shape in shapes)
        for dtype in KINDS:
            if size == HEADER + total * dtype.itemsize:
                config = {"n_head": heads, "activation": "gelu_tanh", "tie_weights": True}
                return Contents("llm.c", _tensors(path, shapes, dtype), {"config": config})
    raise UserError(
        f"{path} has {size} bytes, but its header (layers {layers}, width {width}, vocabulary "
        f"{vocabulary}, context {context}) asks for {HEADER + 4 * total} in float32 or "
        f"{HEADER + 2 * total} in bfloat16. Download it again."
    )


def _shapes(rows: int, context: int, layers: int, width: int) -> Shapes:
    """Name and shape of each tensor in the order of the file."""
    axes = {"P": rows, "T": context, "D": width, "3": 3 * width, "4": 4 * width}
    names = list(OUTER)
    for name, letters in INNER:
        names += [(BLOCK.format(i) + name, letters) for i in range(min(layers, MOST_LAYERS))]
    return [(name, tuple(axes[axis] for axis in letters)) for name, letters in (*names, *LAST)]


def _tensors(path: Path, shapes: Shapes, dtype: np.dtype) -> dict[str, Tensor]:
    tensors, offset = {}, HEADER
    for name, shape in shapes:
        read = functools.partial(piece, path, dtype, shape, offset)
        tensors[name] = Tensor(shape, dtype, read)
        offset += math.prod(shape) * dtype.itemsize
    return tensors

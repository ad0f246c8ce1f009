"""Writes the .bin file that llama2.c's `run` opens: seven sizes, then the weights in float32."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.model import abstract_params
from jaxgpt.pytree import flatten
from jaxgpt.storage.model_directory import ModelDirectory
from jaxgpt.system import atomic_files
from jaxgpt.system.stages import Stage, silent

from .dialects import DIALECTS
from .rows import whole
from .write_plan import Written

SUFFIX = ".bin"
DIALECT = "llama2c"
# The header: whole numbers of 32 bits. The vocabulary size is negative where the head is not tied.
SIZES = (
    "model_dim", "mlp_dim", "num_blocks", "num_heads", "num_kv_heads", "vocab_size",
    "context_length",
)  # fmt: skip
# The tensors of the layers, in the order of the file: each kind for all layers, then the next.
OF_LAYERS = (
    "attention_norm", "attention.wq", "attention.wk", "attention.wv", "attention.wo",
    "ffn_norm", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3",
)  # fmt: skip
FLOAT32 = np.dtype("<f4")
BASE = 10000.0  # of the rotation; `run` knows no other


def directory_to_bin(
    directory: str | Path, out: str | Path, dialect: str | None, stage: Stage = silent
) -> Written:
    """Write the model in `directory` to the file `out`, completely or not at all.

    `dialect` may be None or that of llama2.c: the program opens no other.
    """
    if dialect not in (None, DIALECT):
        raise UserError(
            f"{out} would be for llama2.c's program, not for the dialect {dialect}: give it a "
            "name that ends in .pt or .safetensors, or leave out --dialect."
        )
    opened, target = ModelDirectory(directory), DIALECTS[DIALECT]
    config, paths = opened.config, set(opened.paths)
    whole.require_expressible(target, config, paths)
    _require_what_the_program_computes(opened)
    arrays = whole.stream(target, config, opened.dtypes, _reading(opened, stage)).arrays()
    stage("writing", 0)
    with atomic_files.new_file(out) as partial, partial.open("wb") as file:
        file.write(_header(config).tobytes())
        for name in _names(config):
            file.write(np.ascontiguousarray(arrays[name], FLOAT32).tobytes())
        for table in _rotations(config):
            file.write(table.astype(FLOAT32).tobytes())
        if not config.tied:
            file.write(np.ascontiguousarray(arrays["output.weight"], FLOAT32).tobytes())
    return Written(opened.path, config, target, [])


def _require_what_the_program_computes(opened: ModelDirectory) -> None:
    """Require the fields that `run` does not read from the file, and weights that fit float32."""
    config = opened.config
    unlike = {name: usual for name, (_, usual) in DIALECTS[DIALECT].unlike(config).items()}
    if config.num_heads * config.head_dim != config.model_dim:
        unlike["head_dim"] = f"{config.model_dim / config.num_heads:g}"
    problems = [
        f"its {name} is {getattr(config, name)!r}, and the program computes {usual}"
        for name, usual in unlike.items()
    ]
    wide = {str(kind) for kind in opened.dtypes.values() if kind.itemsize > FLOAT32.itemsize}
    if wide:
        problems.append(f"its weights are {wide.pop()}, and the file holds float32")
    if problems:
        raise UserError(
            f"{opened.path} cannot be written for llama2.c's program: {'; '.join(problems)}. A "
            "file whose name ends in .pt or .safetensors can hold any model."
        )


def _header(config: ModelConfig) -> np.ndarray:
    sizes = {name: getattr(config, name) for name in SIZES}
    sizes["vocab_size"] *= 1 if config.tied else -1
    return np.array([*sizes.values()], "<i4")


def _names(config: ModelConfig) -> Iterator[str]:
    """Yield the names of the tensors before the tables of angles, in the order of the file."""
    yield "tok_embeddings.weight"
    for kind in OF_LAYERS:
        yield from (f"layers.{layer}.{kind}.weight" for layer in range(config.num_blocks))
    yield "norm.weight"


def _rotations(config: ModelConfig) -> Iterator[np.ndarray]:
    """Yield cosines and sines (T, H / 2), which the file has room for; `run` computes its own."""
    exponents = np.arange(0, config.head_dim, 2) / config.head_dim
    angles = np.arange(config.context_length)[:, None] * BASE**-exponents
    yield np.cos(angles)
    yield np.sin(angles)


def _reading(opened: ModelDirectory, stage: Stage) -> Callable[[str], np.ndarray]:
    """The function that reads a parameter of `opened` and reports progress to `stage`."""
    total = sum(leaf.size for leaf in flatten(abstract_params(opened.config)).values())
    passed = stage("reading", total)

    def read(path: str) -> np.ndarray:
        array = opened.read(path)
        passed(array.size)
        return array

    return read

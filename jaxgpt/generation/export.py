"""Export of prefill and decode as StableHLO, to run with jax and without jaxgpt; no sampling.

FILE is a zip with prefill.stablehlo, decode.stablehlo, about.json and, if the model has one,
tokenizer.json; both programs contain the weights.

    file = zipfile.ZipFile(FILE)
    prefill = jax.export.deserialize(bytearray(file.read("prefill.stablehlo")))
    decode = jax.export.deserialize(bytearray(file.read("decode.stablehlo")))
    # tokens: int32 (B, S), any padding on the right; the others: int32 (B,)
    logits, cache = prefill.call(tokens, lengths)
    logits, cache = decode.call(cache, newest, positions)
"""

import json
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from jaxgpt.config import ModelConfig
from jaxgpt.errors import require
from jaxgpt.file_names import TOKENIZER
from jaxgpt.model import GPT, cache, cast, exactly, params_of
from jaxgpt.model.cache import Cache
from jaxgpt.storage import model_directory
from jaxgpt.system import atomic_files

PLATFORMS = ("cpu", "cuda", "tpu")


def export(directory: Path, file: Path, batch_size: int) -> None:
    """Write the programs of the model in `directory`, for `batch_size` rows, to the zip `file`."""
    require(
        0 < batch_size < 2**31,
        f"--batch-size must be positive, and less than 2**31, but is {batch_size}.",
    )
    opened = model_directory.ModelDirectory(directory)
    require(
        isinstance(opened.config, ModelConfig) and not opened.config.cross_attention,
        f"{opened.path} attends to a source, but jaxgpt export takes only decoders without one: "
        "to use it elsewhere, convert it to PyTorch with jaxgpt-convert to-torch.",
    )
    model = opened.model()
    require(
        all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params_of(model))),
        f"{opened.path} has weights that are NaN or infinite, with which programs would compute "
        "nothing useful. Take an earlier checkpoint.",
    )
    about = {
        "model": vars(opened.config),
        "batch_size": batch_size,
        "platforms": PLATFORMS,
        "call": "jax.export.deserialize(bytearray(content of a .stablehlo)).call(...)",
        "prefill": "(tokens int32 (B, context_length), lengths int32 (B,)) -> "
        "(logits (B, V) after each length, cache)",
        "decode": "(cache, newest int32 (B,), positions int32 (B,)) -> (logits (B, V), cache)",
        "notes": "tokens are padded on the right, with anything; the first new one has the "
        "position lengths, the last context_length - 1",
    }
    with (
        atomic_files.new_file(file) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as parts,
    ):
        for name, program in _programs(model, batch_size).items():
            _add(parts, f"{name}.stablehlo", bytes(program))
        _add(parts, "about.json", json.dumps(about, indent=2).encode())
        if (opened.path / TOKENIZER).exists():
            _add(parts, TOKENIZER, (opened.path / TOKENIZER).read_bytes())


def _add(parts: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a file without its time: a zip archive can only hold times from 1980 to 2107."""
    parts.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


def _programs(model: GPT, batch_size: int) -> dict[str, bytearray]:
    """The serialized prefill and decode programs of `model`, by name."""
    with exactly(model.dtype):
        model = cast(model, model.dtype)
        blocks, context = model.unstacked(), model.config.context_length

        def prefill(tokens_bs: jax.Array, lengths_b: jax.Array) -> tuple[jax.Array, tuple]:
            logits_bv, kv_cache = cache.prefill(model, blocks, tokens_bs, lengths_b, context)
            return logits_bv, tuple(kv_cache)

        def decode(
            kv_cache: tuple, newest_b: jax.Array, positions_b: jax.Array
        ) -> tuple[jax.Array, tuple]:
            logits_bv, new = cache.decode(model, blocks, Cache(*kv_cache), newest_b, positions_b)
            return logits_bv, tuple(new)

        shapes = (batch_size, context), (batch_size,)
        tokens, row = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in shapes)
        kv_cache = jax.eval_shape(prefill, tokens, row)[1]
        return {
            name: jax_export.export(jax.jit(program), platforms=PLATFORMS)(*arguments).serialize()
            for name, program, arguments in (
                ("prefill", prefill, (tokens, row)),
                ("decode", decode, (kv_cache, row, row)),
            )
        }

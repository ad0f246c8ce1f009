"""Writes folders for the classes of Hugging Face: config.json, tokenizer, sharded weights.

Independent of the classes themselves.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.seq2seq_config import AnyConfig
from jaxgpt.storage import model_directory
from jaxgpt.system import atomic_files, directories, json_files
from jaxgpt.system.stages import Stage, silent

from .choose import folders_for
from .dialects import DIALECTS, PAIRS, named
from .files import hf_folder, saving
from .names.class_config import lacking_biases
from .names.folder_config import config_words
from .rows import whole
from .rows.dialect import Dialect
from .rows.kinds import Alias, Filled, Kind, Row
from .rows.pair import AnyDialect, Pair, sides
from .streams import Stream
from .tokens import hf_tokenizer
from .write_plan import Written

SHARD = "5GB"
UNITS = {f"{prefix}B": 1000**n for n, prefix in enumerate("KMGT", 1)}
UNITS |= {f"{prefix}iB": 1024**n for n, prefix in enumerate("KMGT", 1)}
# Fields for biases -> how the Flax paths of these biases begin.
PREFIXES = {
    "qkv_bias": "blocks/attn/qkv/",
    "attention_out_bias": "blocks/attn/out/",
    "mlp_bias": "blocks/mlp/",
    "norm_bias": "blocks/norm",
    "head_bias": "head/",
}


def is_folder(out: Path) -> bool:
    """Whether `out` names a folder: it has no suffix, or is a directory already."""
    return out.is_dir() or not out.suffix


def directory_to_folder(
    directory: str | Path,
    out: str | Path,
    dialect: str | None,
    shard: str = SHARD,
    stage: Stage = silent,
) -> Written:
    """Write the model in `directory` to the folder `out`, completely or not at all.

    Without `dialect`, the folder is for the class that the model was converted from. `shard` is
    the largest size of a file of weights.
    """
    directories.require_vacant(Path(out))
    most = parse_size(shard)
    opened = model_directory.ModelDirectory(directory)
    paths = set(opened.paths)
    able = [other.name for other in folders_for(opened.config, paths)]
    target = _target(dialect or _recorded(opened), out, able)
    words, problems = config_words(target, opened.config)
    if problems:
        raise UserError(f"{opened.path}: {'; '.join(problems)}. {_way_out(able)}")
    target = _as_written(target, opened.config)
    tensors = whole.stream(target, opened.config, opened.dtypes, opened.read)
    with directories.new_directory(out) as partial:
        words |= _write_tokenizer(opened, partial)
        words |= (opened.about.get("source") or {}).get("token_ids", {})
        kind = _dtype(opened.dtypes)
        words |= {"dtype": kind, "torch_dtype": kind}
        json_files.write_json(partial / hf_folder.CONFIG, words)
        write_weights(partial, tensors, most, stage)
    return Written(opened.path, opened.config, target, whole.filled(target, opened.config, paths))


def _write_tokenizer(opened: model_directory.ModelDirectory, folder: Path) -> dict[str, Any]:
    """Write the model's tokenizer, if it has one; return its special ids, for config.json.

    Ids are always stated, because the classes would otherwise use their defaults.
    """
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    if not hf_folder.tokenizer_in(opened.path):
        return ids
    tokenizer = hf_tokenizer.read(opened.path)
    hf_tokenizer.write(tokenizer, folder, opened.config.context_length)
    return ids | dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.eot)


def _recorded(opened: model_directory.ModelDirectory) -> str:
    """The dialect that the model was converted from; "" if there is none, as with "auto"."""
    name = (opened.about.get("source") or {}).get("dialect", "")
    return name if name in {**DIALECTS, **PAIRS} else ""


def _target(name: str, out: str | Path, able: Sequence[str]) -> AnyDialect:
    """The dialect `name`; `able` are those whose classes can hold the model."""
    if not name or named(name).hub is None:
        lack = f"the dialect {name} has none" if name else "you have not chosen one"
        choice = (
            f": use --dialect {' or '.join(able)}" if able else ", and none can hold this model"
        )
        raise UserError(
            f"The folder {out} needs a Hugging Face class, but {lack}{choice}. To write a file "
            f"instead, give it a suffix, {' or '.join(saving.SUFFIXES)}."
        )
    return named(name)


def _way_out(able: Sequence[str]) -> str:
    """The sentence that names the dialects `able` to hold the model, or else a file."""
    if able:
        return f"It can be written with --dialect {' or '.join(able)}."
    return (
        "A file for a class of your own can hold it: name a file that ends in .pt, and pass the "
        "dialect of the class with --dialect."
    )


def _as_written(dialect: AnyDialect, config: AnyConfig) -> AnyDialect:
    """The dialect or pair with every bias of the class, and without a head that is tied."""
    written = [_side_as_written(side.dialect, side.config) for side in sides(dialect, config)]
    if isinstance(dialect, Pair):
        return replace(dialect, encoder=written[0], decoder=written[1])
    return written[0]


def _side_as_written(dialect: Dialect, config: ModelConfig) -> Dialect:
    """The dialect with every bias of the class, and without a head that is tied.

    Where a class may lack a whole module, such as the final norm, it lacks the bias as well.
    """
    optional = [row for row in dialect.rows if isinstance(row, Row) and row.torch.optional]
    absent = {_module(row) for row in optional if not row.flax.name.endswith("/bias")}
    lacking = tuple(PREFIXES[field] for field in lacking_biases(dialect, config))

    def sure(row: Kind) -> Kind:
        if row not in optional or not isinstance(row, Row) or _module(row) in absent:
            return row
        if row.flax.name.startswith(lacking):
            return row  # which is not written, as the model lacks it too
        return Filled(row.flax, row.torch.required())

    rows = (row for row in dialect.rows if not (config.tied and isinstance(row, Alias)))
    return replace(dialect, rows=tuple(map(sure, rows)))


def _module(row: Row) -> str:
    """The Flax path of the module that the parameter of `row` belongs to."""
    return row.flax.name.rpartition("/")[0]


def _dtype(dtypes: Mapping[str, np.dtype]) -> str:
    """The dtype to which the class can convert all tensors without loss."""
    kinds = {str(kind) for kind in dtypes.values()}
    return kinds.pop() if len(kinds) == 1 else "float64" if "float64" in kinds else "float32"


def write_weights(out: Path, tensors: Stream, most: int, stage: Stage = silent) -> None:
    """Write `tensors` to safetensors files of at most `most` bytes each, with an index."""
    sizes = {name: each.nbytes for name, each in tensors.tensors.items()}
    atomic_files.require_room(out, sum(sizes.values()))
    shards = list(in_shards(sizes, most))
    files = {hf_folder.shard_name(i, len(shards)): names for i, names in enumerate(shards, 1)}
    saving.save_shards(out, files, tensors, stage)
    if len(shards) > 1:
        listed = {name: file for file, names in files.items() for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": listed}
        json_files.write_json(out / f"{hf_folder.SAFETENSORS}{hf_folder.INDEX}", index)


def in_shards(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """Names of the tensors of each shard, in the order of `sizes`.

    A tensor that is larger than `most` gets a shard of its own.
    """
    names: list[str] = []
    total = 0
    for name, size in sizes.items():
        if names and total + size > most:
            yield names
            names, total = [], 0
        names.append(name)
        total += size
    yield names


def parse_size(text: str) -> int:
    """Bytes in a size such as 5GB or 200MB (powers of 1000) or 1GiB (powers of 1024)."""
    match = re.fullmatch(r"([0-9]{1,9}) ?([KMGT]i?B)", text)
    if not match or not int(match[1]):
        raise UserError(
            f"A shard's size is a number and a unit, such as 5GB, 200MB or 1GiB, but got {text!r}."
        )
    return int(match[1]) * UNITS[match[2]]

"""Hugging Face folders: the names of their files, and which of these hold the weights.

Opens no weights.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxgpt.data.tokenizer_files import FILES as TOKENIZERS
from jaxgpt.errors import UserError, in_a_row
from jaxgpt.file_names import MANIFEST
from jaxgpt.system.json_files import read_json

INDEX = ".index.json"  # the suffix of the file that lists shards
SAFETENSORS, TORCH, FLAX = "model.safetensors", "pytorch_model.bin", "flax_model.msgpack"
WEIGHTS = (
    f"{SAFETENSORS}{INDEX}",
    SAFETENSORS,
    f"{TORCH}{INDEX}",
    TORCH,
    f"{FLAX}{INDEX}",
    FLAX,
)  # the first one found is read
CONFIG, TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"
SUFFIXES = (".pt", ".pth", ".safetensors", ".bin", ".msgpack")
MOST = 64 * 2**20  # the most bytes of JSON; an index of ten thousand tensors takes 1 MiB


def find(folder: Path) -> tuple[Path, list[Path]]:
    """The file to read in `folder`, possibly an index, and other files with the same weights."""
    named = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if named:
        return named[0], [path for path in named[1:] if path.suffix in SUFFIXES]
    loose = [child for child in folder.iterdir() if child.suffix in SUFFIXES]
    if len(loose) != 1:
        raise UserError(_without_weights(folder))
    return loose[0], []


def _without_weights(folder: Path) -> str:
    if (folder / MANIFEST).is_file():
        return f"{folder} is a model directory; jaxgpt-convert to-torch makes a checkpoint of it."
    children = in_a_row(sorted(child.name for child in folder.iterdir()), ", ") or "nothing"
    return (
        f"{folder} is a directory; in it should be one of {', '.join(WEIGHTS)}, or one checkpoint. "
        f"It holds {children}."
    )


def tokenizer_in(folder: Path) -> Path | None:
    """The tokenizer file in `folder`, if there is one."""
    return next((folder / name for name in TOKENIZERS if (folder / name).is_file()), None)


def shard_name(number: int, count: int) -> str:
    """The name of file `number`, from 1, of the `count` files that hold the weights."""
    if count == 1:
        return SAFETENSORS
    stem, suffix = SAFETENSORS.split(".")
    return f"{stem}-{number:05}-of-{count:05}.{suffix}"


def shards(index: Path) -> dict[str, list[str]]:
    """File name -> the tensors that the file `index` lists for it."""
    weight_map = _read_json(index).get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(file, str) for file in weight_map.values())
    ):
        raise UserError(f"{index} has no weight_map from tensors to files.")
    files: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        files.setdefault(file, []).append(name)
    outside = [file for file in files if Path(file).name != file or file in ("", ".", "..")]
    if outside:
        raise UserError(
            f"{index} names {in_a_row(outside, ', ')}; shards must be in the folder of their index."
        )
    missing = [file for file in files if not (index.parent / file).is_file()]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise UserError(
            f"{index} names {in_a_row(missing, ', ')}, which {verb} not there. Download the folder "
            "again."
        )
    return files


def config_beside(path: Path) -> Mapping[str, Any]:
    """The config.json in the folder of `path`; {} without one."""
    config = path.parent / CONFIG
    return _read_json(config) if config.is_file() and config != path else {}


def _read_json(path: Path) -> Mapping[str, Any]:
    return read_json(path, "Correct it or move it away.", MOST)

"""A folder as Hugging Face lays it out: which files hold the weights, and what its config says. Opens no weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxgpt.data.tokenizer import FILES as TOKENIZERS
from jaxgpt.errors import UserError, in_a_row
from jaxgpt.system.atomic_files import read_json

# In the order in which they are preferred.
WEIGHTS = (
    "model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin",
)  # fmt: skip
CONFIG = "config.json"
MOST = 64 * 2**20  # bytes of JSON; an index of ten thousand tensors has one


def find(folder: Path) -> tuple[Path, list[Path]]:
    """The file to read, which may be an index, and those of the same weights that are left aside."""
    there = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    loose = sorted(
        child
        for child in folder.iterdir()
        if child.suffix in (".pt", ".pth", ".safetensors", ".bin")
    )
    if not there and len(loose) == 1:
        return loose[0], []
    if not there and (folder / "manifest.json").is_file():
        raise UserError(
            f"{folder} is a model directory; jaxgpt-convert to-torch makes a checkpoint of it."
        )
    if not there:
        held = in_a_row(sorted(child.name for child in folder.iterdir())[:8], ", ") or "nothing"
        raise UserError(
            f"{folder} is a directory; in it should be one of {', '.join(WEIGHTS)}, or one checkpoint. It holds {held}."
        )
    return there[0], [
        path for path in there[1:] if path.suffix == ".bin" or path.suffix == ".safetensors"
    ]


def tokenizer_in(folder: Path) -> Path | None:
    return next((folder / name for name in TOKENIZERS if (folder / name).is_file()), None)


def shards(index: Path) -> dict[str, list[str]]:
    """File -> the tensors that the index says are in it."""
    listed = _read_json(index).get("weight_map")
    if (
        not isinstance(listed, dict)
        or not listed
        or not all(isinstance(name, str) for pair in listed.items() for name in pair)
    ):
        raise UserError(f"{index} has no weight_map from tensors to files.")
    files: dict[str, list[str]] = {}
    for name, file in listed.items():
        files.setdefault(file, []).append(name)
    outside = [file for file in files if Path(file).name != file or file in ("", ".", "..")]
    if outside:
        raise UserError(
            f"{index} names {in_a_row(outside, ', ')}; a shard lies in the same folder as its index."
        )
    missing = [file for file in files if not (index.parent / file).is_file()]
    if missing:
        raise UserError(
            f"{index} names {in_a_row(missing, ', ')}, which {'is' if len(missing) == 1 else 'are'} not there. "
            "Download the folder again."
        )
    return files


def config_beside(path: Path) -> Mapping[str, Any]:
    """{} where there is none."""
    beside = path.parent / CONFIG
    return _read_json(beside) if beside.is_file() and beside != path else {}


def _read_json(path: Path) -> Mapping[str, Any]:
    return read_json(path, "Mend it or move it away.", MOST)

"""Imports nanoGPT's train.bin and val.bin, which are ids without a header, as token files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.data.tokenizer_files import load, ready_made
from jaxgpt.data.tokens import MAGIC, ids_in_chunks, write_tokens
from jaxgpt.errors import UserError, require
from jaxgpt.file_names import META, SPLITS

DTYPE = np.dtype("<u2")


def find(sources: Sequence[str]) -> dict[str, Path] | None:
    """The paths of train.bin and val.bin by split, if `sources` are these two or their folder."""
    paths = sorted((Path(source) for source in sources), key=lambda path: path.name)
    if len(paths) == 1:
        paths = [paths[0] / name for name in SPLITS.values()]
    if [path.name for path in paths] != [*SPLITS.values()] or not all(
        path.is_file() for path in paths
    ):
        return None
    return {path.stem: path for path in paths}


def take(
    files: dict[str, Path], folder: Path, choice: str
) -> tuple[Tokenizer | None, dict[str, dict[str, Any]]]:
    """Write `files` as token files in `folder`; return their tokenizer, if any, and headers."""
    require(
        choice != "bpe",
        "Byte-pair merges are learnt from text, and train.bin holds ids: name their tokenizer.",
    )
    tokenizer = _tokenizer(files["train"].with_name(META), choice)
    for path in files.values():
        _require_ids(path)
    if tokenizer:
        vocab_size, text_bytes = tokenizer.vocab_size, tokenizer.text_bytes
    else:
        largest = max(int(ids.max()) for path in files.values() for ids in _ids(path))
        vocab_size, text_bytes = largest + 1, None
    splits = {}
    for name, path in files.items():
        try:
            splits[name] = write_tokens(folder / path.name, _ids(path), vocab_size, text_bytes)
        except UserError as error:
            raise UserError(f"{path}: {error} Name the tokenizer that it was made with.") from None
    return tokenizer, splits


def _tokenizer(meta: Path, choice: str) -> Tokenizer | None:
    """The tokenizer of the ids: `choice`, or by default the one in nanoGPT's `meta`."""
    if choice != "char":  # char is the default of `prepare`
        return ready_made(choice)
    if not meta.is_file():
        return None
    try:
        return load(meta)
    except UserError as error:
        others = "Or move it away to go without, or name a tokenizer with --tokenizer."
        raise UserError(f"{error} {others}") from None


def _require_ids(path: Path) -> None:
    """Refuse a file that cannot hold at least two of nanoGPT's ids."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prepared = file.read(len(MAGIC)) == MAGIC
    require(not prepared, f"{path} is prepared already: {path.parent} can be trained on as it is.")
    require(
        size % 2 == 0,
        f"{path} has {size} bytes, an odd number, but each of nanoGPT's ids takes 2: it is cut.",
    )
    require(
        size >= 4,
        f"{path} has {size} bytes, but needs at least two ids of 2 bytes, so that there is "
        "something to predict.",
    )


def _ids(path: Path) -> Iterator[np.ndarray]:
    return ids_in_chunks(path, DTYPE, 0, 0, path.stat().st_size // DTYPE.itemsize)

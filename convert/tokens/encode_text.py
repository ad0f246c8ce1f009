"""Encodes a text to the ids of a checkpoint, with any tokenizer that comes with it.

Independent of weights.
"""

import re
from pathlib import Path

import numpy as np

from jaxgpt.data.tokenizer import CharTokenizer, Tokenizer, train_char
from jaxgpt.errors import UserError, in_a_row

from ..files.checkpoints import Checkpoint
from ..files.hf_folder import tokenizer_in
from ..names.config_words import characters
from . import hf_tokenizer


def encode_text(
    text: str, source: Checkpoint, vocab_size: int, tokenizer: str | Path | None
) -> tuple[np.ndarray, str]:
    """The ids of `text`, and a description of the tokenizer that encoded it."""
    used, whose = _tokenizer(text, source, vocab_size, Path(tokenizer) if tokenizer else None)
    if used.vocab_size > vocab_size:
        raise UserError(
            f"{source.path} has a vocabulary of {vocab_size}, but {whose} has {used.vocab_size} "
            "ids: it belongs to another model."
        )
    if isinstance(used, CharTokenizer) and (
        lacking := sorted({*text} - {*used.decode(range(used.vocab_size))})
    ):
        named = in_a_row([repr(character) for character in lacking], ", ")
        raise UserError(
            f"The text has {named}, which {whose} lacks. Leave such characters out, or take text "
            "of the kind that the model was trained on."
        )
    return used.encode(text), whose


def _tokenizer(
    text: str, source: Checkpoint, vocab_size: int, chosen: Path | None
) -> tuple[Tokenizer, str]:
    """The tokenizer `chosen` by the user, or that of the checkpoint; and its description."""
    path = chosen or source.tokenizer
    if not chosen and (alphabet := characters(source.extras)):
        return CharTokenizer(alphabet), f"the list of {len(alphabet)} characters in {source.path}"
    if not path and isinstance(source.path, Path):
        path = tokenizer_in(source.path.parent)
    if path:
        return hf_tokenizer.read(path), str(path)
    different = len({*text})
    if different == vocab_size:
        whose = f"the sorted characters of the text, as many as the vocabulary ({different})"
        return train_char([text]), whose
    raise UserError(
        f"{source.path} has a vocabulary of {vocab_size}, and nothing says what its ids stand for. "
        f"The text has {different} different characters, so the usual guess, its characters in "
        "order, cannot be right. Any of these helps: --tokenizer with a tokenizer.json, the "
        f"characters as JSON or nanoGPT's meta.pkl, a text of just the {vocab_size} characters "
        "that the model was trained on, or --ids."
    )


def read_ids(ids: str) -> np.ndarray:
    """Ids from a list such as `0 29 59`, or from a file: text, .npy, or .bin as of nanoGPT."""
    path = Path(ids)
    if len(ids) < 1024 and path.is_file():
        if path.suffix == ".bin":
            return _nanogpt(path)
        if path.suffix == ".npy":
            return _numpy(path)
        ids = path.read_text("utf-8", "replace")
    words = ids.translate(str.maketrans("[],", "   ")).split()
    if wrong := next((word for word in words if not re.fullmatch(r"-?[0-9]{1,18}", word)), None):
        raise UserError(
            f"--ids takes a file, or whole numbers such as 0 29 59, but got {wrong[:40]!r}."
        )
    return np.array([int(word) for word in words], np.int64)


def _nanogpt(path: Path) -> np.ndarray:
    """The ids in a .bin file of nanoGPT: whole numbers of two bytes each."""
    size = path.stat().st_size
    if size % 2:
        raise UserError(f"{path} has {size} bytes, but ids in a .bin file have two bytes each.")
    return np.fromfile(path, "<u2").astype(np.int64)


def _numpy(path: Path) -> np.ndarray:
    """The ids in a .npy file, mapped, so that a shape larger than the file is an error at once."""
    try:
        with np.errstate(all="ignore"):  # of the size of a hostile shape, which is an error below
            ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is not an array of ids: {in_a_row([str(error)])}") from None
    if not isinstance(ids, np.ndarray):
        raise UserError(f"{path} is an archive of arrays (.npz); save the ids alone, with np.save.")
    if not np.issubdtype(ids.dtype, np.integer):
        raise UserError(f"{path} should hold whole numbers, but holds {ids.dtype}.")
    return np.array(ids.reshape(-1), np.int64)


def require_known(ids: np.ndarray, vocab_size: int, path: object) -> None:
    """Raise UserError unless each of `ids` is in the vocabulary, 0 to `vocab_size` - 1."""
    wrong = np.flatnonzero((ids < 0) | (ids >= vocab_size))
    if len(wrong):
        raise UserError(
            f"Id {ids[wrong[0]]} at position {wrong[0]} is not in {path}'s vocabulary of "
            f"{vocab_size} (ids 0 to {vocab_size - 1}); {len(wrong)} such ids in all."
        )

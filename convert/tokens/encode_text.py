"""What a text is in the ids of a checkpoint, where anything tells. Knows no weights."""

import re
from pathlib import Path

import numpy as np

from jaxgpt.data.tokenizer import CharTokenizer, Tokenizer, train_char
from jaxgpt.errors import UserError, in_a_row

from ..files.checkpoints import Checkpoint
from ..files.hf_folder import tokenizer_in
from ..names.config_words import characters
from . import hf_tokenizer


def spell(
    text: str, source: Checkpoint, vocab_size: int, tokenizer: str | Path | None
) -> tuple[np.ndarray, str]:
    """The ids, and whose they are."""
    used, whose = _tokenizer(text, source, vocab_size, Path(tokenizer) if tokenizer else None)
    if used.vocab_size > vocab_size:
        raise UserError(
            f"{source.path} has a vocabulary of {vocab_size}, but {whose} has {used.vocab_size} ids: it belongs to "
            "another model."
        )
    if isinstance(used, CharTokenizer) and (
        lacking := sorted({*text} - {*used.decode(range(used.vocab_size))})
    ):
        named = in_a_row([repr(character) for character in lacking], ", ")
        raise UserError(
            f"The text has {named}, which {whose} lacks. Leave such characters out, or take text of the kind that the "
            "model was trained on."
        )
    return used.encode(text), whose


def _tokenizer(
    text: str, source: Checkpoint, vocab_size: int, given: Path | None
) -> tuple[Tokenizer, str]:
    beside = source.tokenizer or (
        tokenizer_in(source.path.parent) if isinstance(source.path, Path) else None
    )
    if given:
        return hf_tokenizer.read(given), str(given)
    if held := characters(source.extras):
        return CharTokenizer(held), f"the list of {len(held)} characters in {source.path}"
    if beside:
        return hf_tokenizer.read(beside), str(beside)
    different = len({*text})
    if different == vocab_size:
        return train_char(
            [text]
        ), f"the sorted characters of the text, as many as the vocabulary ({different})"
    raise UserError(
        f"{source.path} has a vocabulary of {vocab_size}, and nothing says what its ids stand for. The text has "
        f"{different} different characters, so the usual guess, its characters in order, cannot be right. Any of these "
        "helps: --tokenizer with a tokenizer.json, the characters as JSON or nanoGPT's meta.pkl, a "
        f"text of just the {vocab_size} characters that the model was trained on, or --ids."
    )


def read_ids(given: str) -> np.ndarray:
    """A list such as `0 29 59`; or a file of one, .npy, or .bin as nanoGPT writes it."""
    path = Path(given)
    if len(given) < 1024 and path.is_file():
        if path.suffix == ".bin":
            return np.fromfile(path, "<u2").astype(np.int64)
        if path.suffix == ".npy":
            return _numpy(path)
        given = path.read_text("utf-8", "replace")
    words = given.translate(str.maketrans("[],", "   ")).split()
    if wrong := next((word for word in words if not re.fullmatch(r"-?[0-9]{1,18}", word)), None):
        raise UserError(
            f"--ids takes a file, or whole numbers such as 0 29 59, but got {wrong[:40]!r}."
        )
    return np.array([int(word) for word in words], np.int64)


def _numpy(path: Path) -> np.ndarray:
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is no array of ids: {error}") from None
    if not np.issubdtype(found.dtype, np.integer):
        raise UserError(f"{path} should hold whole numbers, but holds {found.dtype}.")
    return found.reshape(-1).astype(np.int64)


def require_known(ids: np.ndarray, vocab_size: int, path: object) -> None:
    wrong = np.flatnonzero((ids < 0) | (ids >= vocab_size))
    if len(wrong):
        raise UserError(
            f"Id {ids[wrong[0]]} at position {wrong[0]} is not in {path}'s vocabulary of {vocab_size} (ids 0 to "
            f"{vocab_size - 1}); {len(wrong)} such ids in all."
        )

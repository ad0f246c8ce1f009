"""Prepared directories from text: token files, a tokenizer, and the split for validation."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.data import nanogpt_ids
from jaxgpt.data.bpe import train_bpe
from jaxgpt.data.formats import Piece
from jaxgpt.data.progress import with_progress
from jaxgpt.data.sources import documents, known_bytes
from jaxgpt.data.tokenizer import Tokenizer, Unencodable, train_char
from jaxgpt.data.tokenizer_files import ready_made
from jaxgpt.data.tokens import (
    HEADER_BYTES,
    Dataset,
    ids_in_chunks,
    open_dataset,
    write_tokens,
)
from jaxgpt.errors import UserError, require
from jaxgpt.file_names import ABOUT, SPLITS, TOKENIZER
from jaxgpt.system.directories import new_directory
from jaxgpt.system.json_files import write_json

TOGETHER = 1 << 20  # characters encoded at once
MERGES_FROM = 1 << 26  # characters that merges are learnt from: more would hardly change them
MERGES_WORDS = 1 << 22  # bytes of distinct words among them, which the memory for learning follows
Splits = dict[str, dict[str, Any]]  # name -> header of its token file


def prepare(
    sources: Sequence[str],
    out: str | Path,
    *,
    tokenizer: str = "char",
    vocab_size: int = 8192,
    field: str = "text",
    val: float = 0.1,
    errors: str = "strict",
) -> Dataset:
    """Write the text of `sources` as a prepared directory at `out`, and open it.

    `tokenizer` is char, byte, bpe (`vocab_size` ids, learnt from the first 64 million characters,
    or fewer where there are very many distinct words), or a file or folder with a tokenizer. The
    last `val` of the ids, a fraction, is for validation. nanoGPT's train.bin and val.bin, named as
    their folder or as the two files, keep their own split and take the characters of a meta.pkl in
    the same folder.
    """
    require(bool(sources), "There is no text to prepare: name files, folders or other sources.")
    require(0 < val < 1, f"val is a part of the text, between 0 and 1, but is {val}.")
    about: dict[str, Any] = {"version": 1, "sources": list(sources)}
    with new_directory(out) as partial:
        if files := nanogpt_ids.find(sources):
            used, splits = nanogpt_ids.take(files, partial, tokenizer)
        else:
            about |= {"field": field, "errors": errors, "val": val}
            with _reader(sources, partial, field, errors) as read:
                used = _tokenizer(tokenizer, read, vocab_size)
                splits = _split(_ids(read("encoding"), used), partial, used, val)
        if used:
            used.save(partial / TOKENIZER)
        about |= {
            "tokenizer": used.kind if used else None,
            "vocab_size": splits["train"]["vocab_size"],
        }
        write_json(partial / ABOUT, about | {"splits": splits})
    return open_dataset(Path(out), verify=False)


def _tokenizer(choice: str, read: Callable[[str], Iterator[Piece]], vocab_size: int) -> Tokenizer:
    """The tokenizer `choice`, made from the text where it is char or bpe."""
    if choice == "char":
        return train_char(piece.text for piece in _joined(read("characters")))
    if choice == "bpe":
        return train_bpe(_sample(read("learning merges")), vocab_size)
    return ready_made(choice)


def _sample(pieces: Iterator[Piece]) -> Iterator[str]:
    """The texts to learn merges from: a prefix within MERGES_FROM and MERGES_WORDS."""
    characters, seen_hashes, size = 0, set[int](), 0
    for piece in pieces:
        yield piece.text
        characters += len(piece.text)
        for word in piece.text.split():
            if (key := hash(word)) not in seen_hashes:
                seen_hashes.add(key)
                size += len(word.encode())
        if characters > MERGES_FROM or size > MERGES_WORDS:
            return


def _ids(pieces: Iterator[Piece], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Ids of all documents, with an end of text between any two where the tokenizer has one."""
    ended = False
    for group in _groups(pieces if tokenizer.eot is not None else _joined(pieces)):
        for piece, ids in zip(group, _encoded(group, tokenizer), strict=True):
            if ended:
                yield np.array([tokenizer.eot])
            yield ids
            ended = tokenizer.eot is not None and piece.end is not None


def _joined(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The pieces with documents separated by text, for tokenizers without an end-of-text id."""
    separator = ""
    for piece in pieces:
        yield piece._replace(text=separator + piece.text, start=piece.start - len(separator))
        separator = piece.end or ""


def _groups(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    """Lists of about TOGETHER characters, so that short documents are encoded on all cores."""
    group: list[Piece] = []
    size = 0
    for piece in pieces:
        group.append(piece)
        size += len(piece.text)
        if size >= TOGETHER:
            yield group
            group, size = [], 0
    yield group


def _encoded(group: list[Piece], tokenizer: Tokenizer) -> list[np.ndarray]:
    try:
        return tokenizer.encode_many([piece.text for piece in group])
    except Unencodable as error:
        piece = group[error.which]
        raise UserError(
            f"{piece.where}: at character {piece.start + error.position} {error.problem}. Take it "
            "out of the text; or, for a model that is trained from scratch, use a tokenizer that "
            "keeps it, such as byte, or bpe made from this text."
        ) from None


def _split(ids: Iterable[np.ndarray], partial: Path, tokenizer: Tokenizer, val: float) -> Splits:
    """Write train.bin and val.bin; return their headers.

    The position of the cut depends on the number of ids, so all are first written to one file.
    """
    whole = partial / "whole.bin"
    header = write_tokens(whole, ids, tokenizer.vocab_size)
    count, dtype = header["count"], np.dtype(header["dtype"]).newbyteorder("<")
    cut = int((1 - val) * count)
    require(
        min(cut, count - cut) > 1,
        f"The text is too short: of its {count} tokens {cut} are for training and {count - cut} "
        "for validation, and each takes 2 at least. Give more text, or another part for validation "
        "(--val).",
    )
    splits = {}
    for name, first, last in (("train", 0, cut), ("val", cut, count)):
        chunks = ids_in_chunks(whole, dtype, HEADER_BYTES, first, last)
        splits[name] = write_tokens(
            partial / SPLITS[name], chunks, tokenizer.vocab_size, tokenizer.text_bytes
        )
    whole.unlink()
    return splits


@contextlib.contextmanager
def _reader(
    sources: Sequence[str], folder: Path, field: str, errors: str
) -> Iterator[Callable[[str], Iterator[Piece]]]:
    """A function that reads all text at each call; standard input is kept in a file in `folder`."""
    with tempfile.TemporaryFile(dir=folder) as stdin:
        if "-" in sources:
            shutil.copyfileobj(sys.stdin.buffer, stdin)

        def read(what: str) -> Iterator[Piece]:
            stdin.seek(0)
            pieces = documents(sources, field, errors, stdin)
            return with_progress(
                pieces, what, lambda piece: len(piece.text.encode()), known_bytes(sources)
            )

        yield read

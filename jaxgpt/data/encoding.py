"""Text to ids: makes or loads the chosen tokenizer, and encodes many texts at once."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from jaxgpt.data.bpe import train_bpe
from jaxgpt.data.pieces import Piece
from jaxgpt.data.tokenizer import Tokenizer, Unencodable, train_char
from jaxgpt.data.tokenizer_files import ready_made
from jaxgpt.errors import UserError

TOGETHER = 1 << 20  # characters encoded at once
MERGES_FROM = 1 << 26  # characters to learn merges from: more would hardly change the merges
MERGES_WORDS = 1 << 22  # bytes of distinct words among them; training memory grows with these
Item = TypeVar("Item")


def tokenizer_for(
    choice: str, read: Callable[[str], Iterator[Piece]], vocab_size: int
) -> Tokenizer:
    """The tokenizer `choice`; char and bpe are made from the text that `read` returns."""
    if choice == "char":
        return train_char(piece.text for piece in with_separators(read("characters")))
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


def with_separators(pieces: Iterator[Piece], separator: str = "") -> Iterator[Piece]:
    """The pieces with separators between documents, for tokenizers without an end-of-text id.

    `separator` separates them from the document before, if there is one.
    """
    for piece in pieces:
        yield piece._replace(text=separator + piece.text, start=piece.start - len(separator))
        separator = piece.end or ""


def ids_of(
    pieces: Iterator[Piece], tokenizer: Tokenizer, after_text: bool = False
) -> Iterator[np.ndarray]:
    """Ids of all documents, with an end of text between any two where the tokenizer has one.

    With `after_text` there is also one before the first, which ends the record before it.
    """
    ended = after_text
    if tokenizer.eot is None:
        pieces = with_separators(pieces, "\n" if after_text else "")
    for group in groups(pieces, lambda piece: len(piece.text)):
        for piece, ids in zip(group, encode_pieces(group, tokenizer), strict=True):
            if ended and tokenizer.eot is not None:
                yield np.array([tokenizer.eot])
            yield ids
            ended = piece.end is not None


def groups(items: Iterable[Item], size: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Lists of about TOGETHER characters, so that short texts are encoded on all cores.

    `size` counts the characters of an item.
    """
    group: list[Item] = []
    total = 0
    for item in items:
        group.append(item)
        total += size(item)
        if total >= TOGETHER:
            yield group
            group, total = [], 0
    if group:
        yield group


def encode_pieces(group: list[Piece], tokenizer: Tokenizer) -> list[np.ndarray]:
    """The ids of each piece."""
    try:
        return tokenizer.encode_many([piece.text for piece in group])
    except Unencodable as error:
        piece = group[error.which]
        raise UserError(
            f"{piece.where}: at character {piece.start + error.position} {error.problem}. Take it "
            "out of the text; or, for a model that is trained from scratch, use a tokenizer that "
            "keeps it, such as byte, or bpe made from this text."
        ) from None

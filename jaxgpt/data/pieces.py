"""Text as pieces of documents, and pairs of texts, from files and records of any format.

The formats with many records in a file are in `corpus_formats`, which says how to add one.
"""

import codecs
import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from jaxgpt.data.corpus_formats import (
    PAIR_FORMATS,
    SIDES,
    TEXT_FORMATS,
    Reading,
    Records,
    not_utf8,
    texts,
)
from jaxgpt.errors import UserError, require

PIECE_CHARACTERS = 1 << 16  # a longer document comes in several pieces
CHUNK = 1 << 20  # bytes read at once
_REACH = 4096  # characters searched backwards for a cut; text with no space in these has no words
_AFTER_WORD = re.compile(r".*[^\W_](?=\s)", re.DOTALL)
_BEFORE_SPACE = re.compile(r".*\S(?=\s)", re.DOTALL)


class Piece(NamedTuple):
    """A part of a document. The pieces of a document, joined, are its exact text; none is empty."""

    text: str
    where: str  # the document, for messages
    start: int  # characters of the document before this piece
    # None where the document continues; else the text that separates it from the next one, for
    # tokenizers without an end-of-text id.
    end: str | None


class Pair(NamedTuple):
    """A source and the target that a model should produce for it."""

    source: Piece
    target: Piece


def from_file(path: Path, reading: Reading) -> Iterator[Piece]:
    """The text of a file, in the format that its suffix names."""
    require(
        path.suffix != ".bin",
        f"{path} has the name of a file of ids, not of text. Name nanoGPT's train.bin and val.bin "
        "together, or their folder, and nothing else with them.",
    )
    with open_file(path) as stream:
        if path.suffix in TEXT_FORMATS:
            yield from from_records(TEXT_FORMATS[path.suffix](stream, path, reading), reading)
        else:
            yield from from_bytes(stream, str(path), reading)


def pairs_from_file(path: Path, reading: Reading) -> Iterator[Pair]:
    """The pairs of a file, in the format that its suffix names."""
    require(
        path.suffix in PAIR_FORMATS,
        f"{path} is not a file of pairs of source and target: the names of these end in "
        f"{', '.join(PAIR_FORMATS)}.",
    )
    with open_file(path) as stream:
        yield from pairs_from_records(PAIR_FORMATS[path.suffix](stream, path, reading), reading)


def from_bytes(stream: BinaryIO, where: str, reading: Reading) -> Iterator[Piece]:
    """The text of one UTF-8 document."""
    return _pieces(_decoded(stream, where, reading.errors), where, "")


def from_records(records: Records, reading: Reading) -> Iterator[Piece]:
    """The text of each record, as a document of its own."""
    for where, (text,) in texts(records, reading):
        yield from _pieces([text], where, "\n")


def pairs_from_records(records: Records, reading: Reading) -> Iterator[Pair]:
    """The pair of each record; each side is a document in one piece."""
    for where, sides in texts(records, reading):
        for side, text in zip(SIDES, sides, strict=True):
            require(
                bool(text.strip()),
                f"{where}: the {side} is empty, but a pair needs a text on both sides. Remove the "
                "pair.",
            )
        source, target = (
            Piece(text, f"{where}, {side}", 0, "") for side, text in zip(SIDES, sides, strict=True)
        )
        yield Pair(source, target)


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open the file `path`; an error in opening or reading it names the file."""
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None


def safe_cut(text: str, limit: int) -> int:
    """The position, at most `limit`, where a cut leaves the byte-pair tokens of `text` unchanged.

    The cut is before the space after a word, because no tokenizer joins the two.
    """
    for pattern in (_AFTER_WORD, _BEFORE_SPACE):
        if match := pattern.match(text, max(0, limit - _REACH), limit + 1):
            return match.end()
    return limit


def _pieces(chunks: Iterable[str], where: str, end: str) -> Iterator[Piece]:
    """The pieces of a document, cut so that no token is split; `end` separates it from the next."""
    text, start = "", 0
    for chunk in chunks:
        text += chunk
        at = 0
        while len(text) - at > PIECE_CHARACTERS:
            cut = safe_cut(text[at : at + PIECE_CHARACTERS + 1], PIECE_CHARACTERS)
            yield Piece(text[at : at + cut], where, start, None)
            at += cut
            start += cut
        text = text[at:]
    if text:
        yield Piece(text, where, start, end)


def _decoded(stream: BinaryIO, where: str, errors: str) -> Iterator[str]:
    """The text of a UTF-8 stream, in chunks."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    read, ended = 0, False
    while not ended:
        raw = stream.read(CHUNK)
        ended = not raw
        pending = decoder.getstate()[0]  # the first bytes of a divided character
        before = read - len(pending)
        try:
            yield decoder.decode(raw, ended)
        except UnicodeDecodeError as error:
            raise not_utf8(where, error, before) from None
        read += len(raw)

"""Formats of text: plain, JSON lines and Parquet, read as pieces of documents.

A new format is a function from an opened file to records, and a line in RECORDS.
"""

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from jaxgpt.errors import UserError, require
from jaxgpt.optional import need
from jaxgpt.system.json_files import parse_json

PIECE = 1 << 16  # characters; a longer document comes in several pieces
CHUNK = 1 << 20  # bytes read at once
_REACH = 4096  # characters searched back for a cut; text without a space in these has no words
_AFTER_WORD = re.compile(r".*[^\W_](?=\s)", re.DOTALL)
_BEFORE_SPACE = re.compile(r".*\S(?=\s)", re.DOTALL)
Records = Iterator[tuple[str, Any]]  # each with its place in the file, for messages


@dataclass(frozen=True)
class Reading:
    """How text is read from records and bytes."""

    field: str = "text"  # the field of a record that holds the text
    errors: str = "strict"  # or "replace", for what is not UTF-8

    def __post_init__(self) -> None:
        require(
            self.errors in ("strict", "replace"),
            f'errors must be "strict" or "replace", but is {self.errors!r}.',
        )


class Piece(NamedTuple):
    """A part of a document. The pieces of a document, joined, are its exact text; none is empty."""

    text: str
    where: str  # the document, for messages
    start: int  # characters of the document before this piece
    # None where the document continues; else the separator from the next one, for tokenizers
    # without an end-of-text id.
    end: str | None


def from_file(path: Path, reading: Reading) -> Iterator[Piece]:
    """The text of a file, in the format that its suffix names."""
    require(
        path.suffix != ".bin",
        f"{path} has ids and not text in it, by its name. nanoGPT's train.bin and val.bin are "
        "taken together, as their folder or as these two files, and nothing else with them.",
    )
    try:
        with path.open("rb") as stream:
            if path.suffix in RECORDS:
                yield from from_records(RECORDS[path.suffix](stream, path, reading), reading)
            else:
                yield from from_bytes(stream, str(path), reading)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None


def from_bytes(stream: BinaryIO, where: str, reading: Reading) -> Iterator[Piece]:
    """The text of one document in UTF-8."""
    return _pieces(_decoded(stream, where, reading.errors), where, "")


def from_records(records: Records, reading: Reading) -> Iterator[Piece]:
    """The text of each record, which is a document of its own."""
    field = reading.field
    for where, record in records:
        require(
            isinstance(record, dict),
            f"{where}: a record must be an object, but is a {type(record).__name__}.",
        )
        require(field in record, _no_field(where, field, record))
        text = "" if record[field] is None else record[field]
        require(
            isinstance(text, str),
            f"{where}: field {field} must hold text, but holds a {type(text).__name__}.",
        )
        try:
            yield from _pieces([text.encode("utf-8", reading.errors).decode()], where, "\n")
        except UnicodeEncodeError as error:
            problem = (
                f"half a surrogate pair, U+{ord(text[error.start]):04X}, at character {error.start}"
            )
            raise UserError(f"{where}: {problem}; --errors replace puts a ? there.") from None


def safe_cut(text: str, limit: int) -> int:
    """The position, at most `limit`, where a cut leaves the byte-pair tokens of `text` unchanged.

    This is before the space that follows a word, as no tokenizer joins the two.
    """
    for pattern in (_AFTER_WORD, _BEFORE_SPACE):
        if match := pattern.match(text, max(0, limit - _REACH), limit + 1):
            return match.end()
    return limit


def _pieces(chunks: Iterable[str], where: str, end: str) -> Iterator[Piece]:
    """The pieces of one document, cut so that no tokenizer notices; `end` separates the next."""
    text, start = "", 0
    for chunk in chunks:
        text += chunk
        at = 0
        while len(text) - at > PIECE:
            cut = safe_cut(text[at : at + PIECE + 1], PIECE)
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
        pending = decoder.getstate()[0]  # the first bytes of a character that was cut in two
        before = read - len(pending)
        try:
            yield decoder.decode(raw, ended)
        except UnicodeDecodeError as error:
            raise _not_utf8(where, error, before) from None
        read += len(raw)


def _not_utf8(where: str, error: UnicodeDecodeError, before: int) -> UserError:
    return UserError(
        f"{where} is not UTF-8: byte 0x{error.object[error.start]:02x} at position "
        f"{before + error.start} ({error.reason}). Convert it (iconv -f ENCODING -t utf-8), or put "
        "U+FFFD there with --errors replace."
    )


def _no_field(where: str, field: str, names: Iterable[str]) -> str:
    return f"{where} has no field {field}; there are: {', '.join(names)}. Choose one with --field."


def _json_lines(stream: BinaryIO, path: Path, reading: Reading) -> Records:
    """An object on each line."""
    before = 0
    for number, line in enumerate(stream, 1):
        where = f"{path} line {number}"
        try:
            text = line.decode("utf-8", reading.errors)
            if text.strip():
                yield where, parse_json(text, where, "A JSONL file has one object on each line.")
        except UnicodeDecodeError as error:
            raise _not_utf8(str(path), error, before) from None
        before += len(line)


def _parquet(stream: BinaryIO, path: Path, reading: Reading) -> Records:
    """The rows of a Parquet file, of which only the column with the text is read."""
    parquet, field = need("pyarrow.parquet", path), reading.field
    try:
        file = parquet.ParquetFile(stream)
    except ValueError as error:  # pyarrow's ArrowInvalid is one
        raise UserError(f"{path} is not a parquet file: {' '.join(str(error).split())}") from None
    require(field in file.schema_arrow.names, _no_field(str(path), field, file.schema_arrow.names))
    number = 0
    for rows in file.iter_batches(batch_size=256, columns=[field]):
        for row in rows.to_pylist():
            number += 1
            yield f"{path} row {number}", row


# The formats with many documents in a file, by suffix; all other files are one document.
RECORDS: dict[str, Callable[[BinaryIO, Path, Reading], Records]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}

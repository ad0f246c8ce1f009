"""Text read from files, folders, patterns, records, Hugging Face datasets and standard input."""

import codecs
import glob
import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from jaxgpt.errors import UserError, need, require
from jaxgpt.system.atomic_files import parse_json

PIECE = 1 << 16  # characters; a longer document comes in several pieces
CHUNK = 1 << 20  # bytes read at once
RECORDS = (".jsonl", ".ndjson", ".parquet")
BUILT_IN = "python-docs"
_REACH = 4096  # characters searched back for a cut; text without a space in these has no words
_AFTER_WORD = re.compile(r".*[^\W_](?=\s)", re.DOTALL)
_BEFORE_SPACE = re.compile(r".*\S(?=\s)", re.DOTALL)


class Piece(NamedTuple):
    """A part of a document. The pieces of a document, joined, are its exact text; none is empty."""

    text: str
    where: str  # the document, for messages
    start: int  # characters of the document before this piece
    # None where the document continues; else the separator from the next one, for tokenizers
    # without an end-of-text id.
    end: str | None


def documents(
    sources: Sequence[str],
    field: str = "text",
    errors: str = "strict",
    stdin: BinaryIO | None = None,
) -> Iterator[Piece]:
    """All text of `sources`, in their order.

    `field` is the text field of a record; `errors` is "strict" or "replace"; `stdin` is read for
    the source "-", so that a caller can pass a copy of standard input and read it twice.
    """
    require(
        errors in ("strict", "replace"), f'errors must be "strict" or "replace", but is {errors!r}.'
    )
    for source in sources:
        empty = True
        for piece in _read(source, field, errors, stdin):
            empty = False
            yield piece
        require(not empty, f"{_label(source)} is empty: there is no text in it.")


def known_bytes(sources: Sequence[str]) -> int | None:
    """The size of all text, or None where it is not known before reading."""
    if any(source in ("-", BUILT_IN) or source.startswith("hf:") for source in sources):
        return None
    files = [path for source in sources for path in _files(source)]
    return (
        None
        if any(path.suffix in RECORDS for path in files)
        else sum(path.stat().st_size for path in files)
    )


def safe_cut(text: str, limit: int) -> int:
    """The position, at most `limit`, where a cut leaves the byte-pair tokens of `text` unchanged.

    This is before the space that follows a word, as no tokenizer joins the two.
    """
    for pattern in (_AFTER_WORD, _BEFORE_SPACE):
        if match := pattern.match(text, max(0, limit - _REACH), limit + 1):
            return match.end()
    return limit


def _read(source: str, field: str, errors: str, stdin: BinaryIO | None) -> Iterator[Piece]:
    if source == "-":
        return _pieces(
            _decoded(stdin or sys.stdin.buffer, _label(source), errors), _label(source), ""
        )
    if source == BUILT_IN:
        return _from_records(_python_docs(), "text", errors)
    if source.startswith("hf:"):
        return _from_records(_hugging_face(source), field, errors)
    return chain.from_iterable(_from_file(path, field, errors) for path in _files(source))


def _label(source: str) -> str:
    return "standard input" if source == "-" else source


def _files(source: str) -> list[Path]:
    """The files of a path or pattern, sorted, without hidden files and folders inside a folder."""
    path = Path(source)
    if os.path.isdir(source):  # Path.is_dir raises for too long a name
        inside = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
        return [
            path / file
            for file in sorted(inside)
            if not any(part.startswith(".") for part in file.parts)
        ]
    if os.path.isfile(source):
        return [path]
    matches = sorted(Path(match) for match in glob.glob(source, recursive=True))
    matches = [match for match in matches if match.is_file()]
    require(
        bool(matches),
        f"There is no file, no folder, and no file that matches the pattern {source}. A text can "
        f"also be - (standard input, for pipes), hf:NAME[:CONFIG][:SPLIT] or {BUILT_IN}.",
    )
    return matches


def _from_file(path: Path, field: str, errors: str) -> Iterator[Piece]:
    require(
        path.suffix != ".bin",
        f"{path} has ids and not text in it, by its name. nanoGPT's train.bin and val.bin are "
        "taken together, as their folder or as these two files, and nothing else with them.",
    )
    try:
        with path.open("rb") as stream:
            if path.suffix == ".parquet":
                yield from _from_records(_parquet(stream, path, field), field, errors)
            elif path.suffix in RECORDS:
                yield from _from_records(_json_lines(stream, path, errors), field, errors)
            else:
                yield from _pieces(_decoded(stream, str(path), errors), str(path), "")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None


def _pieces(chunks: Iterable[str], where: str, end: str) -> Iterator[Piece]:
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


def _from_records(records: Iterable[tuple[str, Any]], field: str, errors: str) -> Iterator[Piece]:
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
            yield from _pieces([text.encode("utf-8", errors).decode()], where, "\n")
        except UnicodeEncodeError as error:
            problem = (
                f"half a surrogate pair, U+{ord(text[error.start]):04X}, at character {error.start}"
            )
            raise UserError(f"{where}: {problem}; --errors replace puts a ? there.") from None


def _no_field(where: str, field: str, names: Iterable[str]) -> str:
    return f"{where} has no field {field}; there are: {', '.join(names)}. Choose one with --field."


def _json_lines(stream: BinaryIO, path: Path, errors: str) -> Iterator[tuple[str, Any]]:
    before = 0
    for number, line in enumerate(stream, 1):
        where = f"{path} line {number}"
        try:
            text = line.decode("utf-8", errors)
            if text.strip():
                yield where, parse_json(text, where, "A JSONL file has one object on each line.")
        except UnicodeDecodeError as error:
            raise _not_utf8(str(path), error, before) from None
        before += len(line)


def _parquet(stream: BinaryIO, path: Path, field: str) -> Iterator[tuple[str, Any]]:
    parquet = need("pyarrow.parquet", path)
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


def _hugging_face(source: str) -> Iterator[tuple[str, Any]]:
    name, config, split, *rest = [*source.removeprefix("hf:").split(":"), "", ""]
    require(
        bool(name) and not any(rest),
        f"{source} must read hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT.",
    )
    datasets = need("datasets", source)
    try:
        dataset = datasets.load_dataset(
            name, config or None, split=split or "train", streaming=True
        )
    except (OSError, ValueError) as error:  # the library's errors are these or derive from them
        raise UserError(f"{source} cannot be opened: {' '.join(str(error).split())}") from None
    for number, record in enumerate(dataset, 1):
        yield f"{source} record {number}", record


def _python_docs() -> Iterator[tuple[str, Any]]:
    topics = importlib.import_module("pydoc_data.topics").topics
    for name in sorted(topics):
        yield f"{BUILT_IN} {name}", {"text": topics[name]}

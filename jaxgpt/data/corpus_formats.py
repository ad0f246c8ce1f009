"""The formats of a corpus with many records in a file: JSON lines, Parquet and TSV.

A new format is a function from an opened file to records, and a line in TEXT_FORMATS or
PAIR_FORMATS.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from jaxgpt.errors import UserError, require
from jaxgpt.optional import need
from jaxgpt.system.json_files import parse_json

SIDES = ("source", "target")  # the sides of a pair, and the columns of a .tsv file
TAB_SEPARATED = ".tsv"
JSON_LINES = (".jsonl", ".ndjson")
Records = Iterator[tuple[str, Any]]  # (place in the file, for messages; record)


@dataclass(frozen=True)
class Reading:
    """How text is read from records and bytes."""

    # The fields of a record that hold the text, or the two sides of a pair. A dot separates the
    # names of nested fields.
    fields: tuple[str, ...] = ("text",)
    errors: str = "strict"  # for text that is not UTF-8; or "replace"

    def __post_init__(self) -> None:
        require(
            self.errors in ("strict", "replace"),
            f'errors must be "strict" or "replace", but is {self.errors!r}.',
        )


def texts(records: Records, reading: Reading) -> Iterator[tuple[str, list[str]]]:
    """The place of each record, and its text in each of the fields."""
    for where, record in records:
        require(
            isinstance(record, dict),
            f"{where}: a record must be an object, but is a {type(record).__name__}.",
        )
        yield where, [_text(where, record, field, reading) for field in reading.fields]


def _text(where: str, record: dict[str, Any], field: str, reading: Reading) -> str:
    value: Any = record
    for name in [field] if field in record else field.split("."):
        if not isinstance(value, dict) or name not in value:
            raise UserError(_no_field(where, field, _field_names(record), reading))
        value = value[name]
    text = "" if value is None else value
    require(
        isinstance(text, str),
        f"{where}: field {field} must hold text, but holds a {type(text).__name__}.",
    )
    try:
        return text.encode("utf-8", reading.errors).decode()
    except UnicodeEncodeError as error:
        problem = (
            f"half a surrogate pair, U+{ord(text[error.start]):04X}, at character {error.start}"
        )
        raise UserError(f"{where}: {problem}; --errors replace puts a ? there.") from None


def _field_names(record: dict[str, Any]) -> Iterator[str]:
    """The names of a record's fields as --field takes them."""
    for name, value in record.items():
        if isinstance(value, dict) and value:
            yield from (f"{name}.{inner}" for inner in _field_names(value))
        else:
            yield name


def not_utf8(where: str, error: UnicodeDecodeError, before: int) -> UserError:
    return UserError(
        f"{where} is not UTF-8: byte 0x{error.object[error.start]:02x} at position "
        f"{before + error.start} ({error.reason}). Convert it (iconv -f ENCODING -t utf-8), or put "
        "U+FFFD there with --errors replace."
    )


def _no_field(where: str, field: str, names: Iterable[str], reading: Reading) -> str:
    choose = "one with --field" if len(reading.fields) == 1 else "two with --field SOURCE,TARGET"
    return f"{where} has no field {field}; there are: {', '.join(names)}. Choose {choose}."


def _lines(stream: BinaryIO, path: Path, reading: Reading) -> Iterator[tuple[str, str]]:
    """The place and the text of each line, without line ending and byte order mark."""
    before = 0
    for number, line in enumerate(stream, 1):
        try:
            text = line.decode("utf-8", reading.errors)
        except UnicodeDecodeError as error:
            raise not_utf8(str(path), error, before) from None
        mark = "" if before else "\ufeff"
        before += len(line)
        yield f"{path} line {number}", text.removeprefix(mark).removesuffix("\n").removesuffix("\r")


def _json_lines(stream: BinaryIO, path: Path, reading: Reading) -> Records:
    """An object on each line."""
    for where, text in _lines(stream, path, reading):
        if text.strip():
            yield where, parse_json(text, where, "A JSONL file has one object on each line.")


def tab_separated(stream: BinaryIO, path: Path, reading: Reading) -> Records:
    """A pair on each line: source, tab, target. Blank lines may end the file."""
    blank = ""
    for where, text in _lines(stream, path, reading):
        if not text.strip(" "):
            blank = blank or where
            continue
        require(not blank, f"{blank} is blank, and more pairs follow. Remove it.")
        columns = text.split("\t")
        require(
            len(columns) > 1,
            f"{where} has no tab: a line is the source, a tab and the target. Correct it or remove "
            "it.",
        )
        require(
            len(columns) == 2,
            f"{where} has {len(columns)} columns, but a pair has 2, source and target. Keep two of "
            "them: cut -f 1,2 keeps the first two.",
        )
        yield where, dict(zip(SIDES, columns, strict=True))


def _parquet(stream: BinaryIO, path: Path, reading: Reading) -> Records:
    """The rows of a Parquet file; only the columns with the text are read."""
    parquet = need("pyarrow.parquet", path)
    try:
        file = parquet.ParquetFile(stream)
    except ValueError as error:  # pyarrow's ArrowInvalid is a ValueError
        raise UserError(f"{path} is not a parquet file: {' '.join(str(error).split())}") from None
    names = file.schema_arrow.names
    columns = {field: field if field in names else field.split(".")[0] for field in reading.fields}
    for field, column in columns.items():
        require(column in names, _no_field(str(path), field, names, reading))
    number = 0
    for rows in file.iter_batches(batch_size=256, columns=[*{*columns.values()}]):
        for row in rows.to_pylist():
            number += 1
            yield f"{path} row {number}", row


# The formats with many documents in a file, by suffix; all other files are one document.
TEXT_FORMATS: dict[str, Callable[[BinaryIO, Path, Reading], Records]] = {
    **dict.fromkeys(JSON_LINES, _json_lines),
    ".parquet": _parquet,
}
PAIR_FORMATS = {TAB_SEPARATED: tab_separated, **TEXT_FORMATS}  # the formats with pairs

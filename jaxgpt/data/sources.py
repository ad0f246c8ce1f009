"""Sources of text: files, folders, patterns, Hugging Face data sets and standard input."""

import contextlib
import glob
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from jaxgpt.data.corpus_formats import TEXT_FORMATS, Reading, Records
from jaxgpt.data.pieces import Piece, from_bytes, from_file, from_records
from jaxgpt.data.progress import with_progress
from jaxgpt.errors import UserError, require
from jaxgpt.optional import need

BUILT_IN = "python-docs"
Item = TypeVar("Item")


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
    reading = Reading((field,), errors)
    for source in sources:
        empty = True
        for piece in _read(source, reading, stdin):
            empty = False
            yield piece
        require(not empty, f"{label(source)} is empty: there is no text in it.")


def known_bytes(sources: Sequence[str]) -> int | None:
    """The size of all text, or None if it is not known before reading."""
    if any(source in ("-", BUILT_IN) or source.startswith("hf:") for source in sources):
        return None
    files = [path for source in sources for path in files_of(source)]
    if any(path.suffix in TEXT_FORMATS for path in files):
        return None
    return sum(path.stat().st_size for path in files)


@contextlib.contextmanager
def reader(
    sources: Sequence[str],
    folder: Path,
    items: Callable[[BinaryIO], Iterator[Item]],
    size: Callable[[Item], int],
    total: int | None,
) -> Iterator[Callable[[str], Iterator[Item]]]:
    """A function that reads all of `sources` at each call, showing progress under the name passed.

    `items` reads the sources, taking standard input from its argument, a copy in `folder`. `size`
    returns the bytes of an item; `total` is the bytes of all items, where known.
    """
    with tempfile.TemporaryFile(dir=folder) as stdin:
        if "-" in sources:
            require(
                sys.stdin is not None, "Standard input is closed, and text should come from it."
            )
            shutil.copyfileobj(sys.stdin.buffer, stdin)

        def read(what: str) -> Iterator[Item]:
            stdin.seek(0)
            return with_progress(items(stdin), what, size, total)

        yield read


def _read(source: str, reading: Reading, stdin: BinaryIO | None) -> Iterator[Piece]:
    if source == "-":
        return from_bytes(stdin or sys.stdin.buffer, label(source), reading)
    if source == BUILT_IN:
        return from_records(_python_docs(), Reading())
    if source.startswith("hf:"):
        return from_records(hugging_face(source), reading)
    return chain.from_iterable(from_file(path, reading) for path in files_of(source))


def label(source: str) -> str:
    """The name of a source in messages."""
    return "standard input" if source == "-" else source


def files_of(source: str) -> list[Path]:
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


def hugging_face(source: str) -> Records:
    """The records of a data set of the datasets library."""
    for number, record in enumerate(stream_of(source), 1):
        yield f"{source} record {number}", record


def stream_of(source: str) -> Any:
    """The data set that `source` names, as an IterableDataset, which stores nothing."""
    name, config, split, *rest = [*source.removeprefix("hf:").split(":"), "", ""]
    require(
        bool(name) and not any(rest),
        f"{source} must read hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT.",
    )
    datasets = need("datasets", source)
    try:
        return datasets.load_dataset(name, config or None, split=split or "train", streaming=True)
    except (OSError, ValueError) as error:  # the library raises these or subclasses
        raise UserError(f"{source} cannot be opened: {' '.join(str(error).split())}") from None


def _python_docs() -> Records:
    topics = importlib.import_module("pydoc_data.topics").topics
    for name in sorted(topics):
        yield f"{BUILT_IN} {name}", {"text": topics[name]}

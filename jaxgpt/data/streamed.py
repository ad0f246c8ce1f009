"""Ids of a data set that is read as a stream and never stored; an interrupted reading resumes.

A folder that outlives the process holds the tokenizer, once it is chosen or learnt, the ids so far,
and the place that reading has reached. The place is replaced only after its ids are on the disk;
ids beyond its count are cut off on resuming.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgpt.data import encoding
from jaxgpt.data.corpus_formats import Reading
from jaxgpt.data.encoding import ids_of, tokenizer_for
from jaxgpt.data.pieces import Piece, from_records
from jaxgpt.data.progress import with_progress
from jaxgpt.data.sources import documents, stream_of
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.data.tokenizer_files import load
from jaxgpt.data.tokens import Whole, narrowest
from jaxgpt.errors import require
from jaxgpt.file_names import LOCK, STREAM, TOKENIZER
from jaxgpt.system.atomic_files import replaced_file, sync
from jaxgpt.system.json_files import read_json, write_json


class Place(NamedTuple):
    """How far a stream has been read."""

    ids: int = 0  # written
    records: int = 0  # read
    library: dict[str, Any] | None = None  # the state of the library's iterator


class Streaming(NamedTuple):
    """The settings for reading a stream, and the place to write its ids to."""

    source: str
    folder: Path
    field: str
    errors: str
    tokenizer: str
    vocab_size: int
    max_tokens: int | None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the ids depend on."""
        return {name: value for name, value in self._asdict().items() if name != "folder"}

    def place(self) -> Place:
        """Where a process with the same settings stopped, or the start of an emptied folder."""
        file = self.folder / STREAM
        if file.exists():
            saved = read_json(file)
            if saved.get("settings") == self.settings:
                return Place(**saved["place"])
        for path in self.folder.iterdir():
            if path.name != LOCK:
                path.unlink()
        return Place()

    def save(self, place: Place) -> None:
        """Replace the place from which a later process resumes."""
        write_json(self.folder / STREAM, {"settings": self.settings, "place": place._asdict()})


def is_stream(sources: Sequence[str]) -> bool:
    """Whether `sources` are one data set of the datasets library."""
    return len(sources) == 1 and sources[0].startswith("hf:")


def write_stream(streaming: Streaming) -> tuple[Tokenizer, Whole]:
    """Write the ids of a stream, from where an earlier process stopped; also return its
    tokenizer."""
    place, used = streaming.place(), streaming.folder / TOKENIZER
    if not used.exists():
        made = tokenizer_for(
            streaming.tokenizer,
            lambda name: with_progress(
                documents([streaming.source], streaming.field, streaming.errors), name, _bytes, None
            ),
            streaming.vocab_size,
        )
        with replaced_file(used) as partial:
            made.save(partial)
        streaming.save(place)
    if place.records:
        print(f"{streaming.source}: resuming after record {place.records:,}", file=sys.stderr)
    tokenizer = load(used)
    whole = Whole(streaming.folder / "whole.bin", narrowest(tokenizer.vocab_size), 0, place.ids)
    whole.file.touch()
    os.truncate(whole.file, place.ids * whole.dtype.itemsize)
    count = _encode(streaming, place, tokenizer, whole)
    require(count > 0, f"{streaming.source} is empty: there is no text in it.")
    (streaming.folder / STREAM).unlink()
    return tokenizer, whole._replace(length=count)


def _encode(streaming: Streaming, place: Place, tokenizer: Tokenizer, whole: Whole) -> int:
    """Append the ids of the rest of a stream; return the number of ids in all."""
    dataset = stream_of(streaming.source)
    if place.library is not None:
        dataset.load_state_dict(place.library)
    most, reading = (
        streaming.max_tokens or sys.maxsize,
        Reading((streaming.field,), streaming.errors),
    )
    count, group, size = place.ids, list[Piece](), 0
    for number, record in enumerate(dataset, place.records + 1):
        pieces = [*from_records(iter([(f"{streaming.source} record {number}", record)]), reading)]
        group += pieces
        size += sum(len(piece.text) for piece in pieces)
        if size >= encoding.TOGETHER:
            count = _append(whole, group, tokenizer, count, most)
            streaming.save(Place(count, number, dataset.state_dict()))
            if count >= most:
                return count
            group, size = [], 0
    return _append(whole, group, tokenizer, count, most)


def _append(whole: Whole, group: list[Piece], tokenizer: Tokenizer, count: int, most: int) -> int:
    """Append the ids of `group` to the `count` ids so far, up to `most` in all; return their
    number."""
    chunks = ids_of(iter(group), tokenizer, after_text=count > 0)
    ids = np.concatenate([np.empty(0, np.int64), *chunks])[: most - count]
    with whole.file.open("ab") as file:
        file.write(ids.astype(whole.dtype).tobytes())
    sync(whole.file)
    return count + len(ids)


def _bytes(piece: Piece) -> int:
    return len(piece.text.encode())

"""Token files, and the prepared directories that hold two of them."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgpt.data.kinds import data_kind, require_model
from jaxgpt.data.progress import with_progress
from jaxgpt.errors import UserError, require
from jaxgpt.file_names import ANSWERS, OFFSETS, SPLITS
from jaxgpt.system.directories import check_manifest
from jaxgpt.system.unchanged import NO_FILES, Unchanged

MAGIC = b"jaxgpt tokens\n"
HEADER_BYTES = 512  # magic line, JSON object, spaces; a multiple of 64, to align the ids
HEADER_FIELDS = {"version", "dtype", "count", "vocab_size", "text_bytes", "sha256"}
CHUNK = 1 << 20  # ids read at once


class Whole(NamedTuple):
    """A file that holds all ids until they are split."""

    file: Path
    dtype: np.dtype
    skip: int  # bytes before the ids
    length: int  # the number of ids


@dataclass(frozen=True, eq=False)
class Examples:
    """The division of a split into examples, and which of its ids are answers."""

    offsets: np.ndarray  # where each example begins; at the end, the number of ids
    answers: np.ndarray  # 1 for each id that counts in the loss

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Dataset:
    """An opened prepared directory."""

    path: Path
    vocab_size: int
    train: np.ndarray
    val: np.ndarray
    val_bytes: int  # size of the UTF-8 text, 0 if unknown
    train_sha256: str  # hash of the ids, to compare the data of two directories
    examples: dict[str, Examples] | None = None  # by split; None for text
    files: Unchanged = NO_FILES  # the files of the ids, if they were verified


def open_dataset(path: Path, verify: bool = True) -> Dataset:
    """Open the prepared directory `path`; `verify` compares the sha256 of every file first."""
    require_model(path, "text")
    files = check_manifest(path) if verify else NO_FILES
    train, header = open_tokens(path / SPLITS["train"])
    val, val_header = open_tokens(path / SPLITS["val"])
    sizes = header["vocab_size"], val_header["vocab_size"]
    require(
        sizes[0] == sizes[1],
        f"{path}: train.bin has {sizes[0]} different ids, but val.bin {sizes[1]}.",
    )
    for name in SPLITS.values() if verify else ():
        require_ids(path / name, {"its vocabulary": sizes[0]})
    known = path, sizes[0], train, val, val_header["text_bytes"]
    if data_kind(path) == "text":
        return Dataset(*known, header["sha256"], files=files)
    examples, digests = {}, [header["sha256"]]
    for name, ids in (("train", train), ("val", val)):
        examples[name], sha256 = _open_examples(path, name, len(ids))
        digests += sha256 if name == "train" else []
    return Dataset(*known, hashlib.sha256("".join(digests).encode()).hexdigest(), examples, files)


def _open_examples(path: Path, name: str, count: int) -> tuple[Examples, list[str]]:
    """The examples of the split `name` of `count` ids, and the sha256 of both files."""
    offsets, offsets_header = open_tokens(path / OFFSETS[name])
    answers, answers_header = open_tokens(path / ANSWERS[name])
    require(
        len(answers) == count == int(offsets[-1]),
        f"{path / ANSWERS[name]}, {OFFSETS[name]} and {SPLITS[name]} do not belong together: they "
        f"are for {len(answers)}, {offsets[-1]} and {count} ids. Prepare it again.",
    )
    require_rising(path / OFFSETS[name], offsets)
    return Examples(offsets, answers), [offsets_header["sha256"], answers_header["sha256"]]


def write_tokens(
    path: Path,
    pieces: Iterable[np.ndarray],
    vocab_size: int,
    text_bytes: Callable[[np.ndarray], int] | None = None,
) -> dict[str, Any]:
    """Write `pieces`, one at a time; return the header.

    `text_bytes` counts the UTF-8 bytes of a piece. The header has their sum, or 0 without
    `text_bytes`.
    """
    dtype = narrowest(vocab_size)
    digest, count, size = hashlib.sha256(), 0, 0
    with path.open("wb") as file:
        file.write(bytes(HEADER_BYTES))
        for ids in pieces:
            wrong = (ids < 0) | (ids >= vocab_size)
            if wrong.any():
                at = int(wrong.argmax())
                raise UserError(
                    f"Id {ids[at]} at position {count + at} is outside the vocabulary of "
                    f"{vocab_size}."
                )
            payload = ids.astype(dtype).data
            file.write(payload)
            digest.update(payload)
            count += len(ids)
            size += text_bytes(ids) if text_bytes else 0
        header = {
            "version": 1,
            "dtype": dtype.name,
            "count": count,
            "vocab_size": vocab_size,
            "text_bytes": size,
            "sha256": digest.hexdigest(),
        }
        file.seek(0)
        file.write((MAGIC + json.dumps(header).encode()).ljust(HEADER_BYTES))
    return header


def offsets_of(lengths: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The offset of each text, given their `lengths`, and the end of the last one."""
    total = 0
    yield np.zeros(1, np.int64)
    for chunk in lengths:
        ends = total + np.cumsum(chunk)
        total = int(ends[-1])
        yield ends


def narrowest(vocab_size: int) -> np.dtype:
    """The narrowest little-endian dtype that holds all ids below `vocab_size`."""
    limits = {"u1": 1 << 8, "<u2": 1 << 16, "<u4": 1 << 32, "<u8": 1 << 63}
    return np.dtype(next(name for name, limit in limits.items() if vocab_size <= limit))


def open_tokens(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The memory-mapped ids of a token file, and its header."""
    header = _read_header(path)
    dtype = np.dtype(header["dtype"]).newbyteorder("<")
    expected, actual = header["count"] * dtype.itemsize, path.stat().st_size - HEADER_BYTES
    require(
        expected == actual,
        f"{path} is cut short or has grown: {header['count']} ids take {expected} bytes after the "
        f"header, but there are {actual}. Copy or prepare it again.",
    )
    require(actual > 0, f"{path} holds no ids. Prepare it again from a longer text.")
    return np.memmap(path, dtype, "r", HEADER_BYTES), header


def require_ids(
    path: Path, vocabularies: Mapping[str, int], offsets: np.ndarray | None = None
) -> None:
    """Require that the ids of a token file are below the sizes of their `vocabularies`.

    These are by the words for them. Where there are several, the texts, which begin at `offsets`,
    belong to them in turn.

    Training would not notice larger ids: jax returns some row even for an index outside a table.
    """
    ids, _ = open_tokens(path)
    starts = np.array([0, len(ids)]) if offsets is None else offsets
    for first in range(0, len(ids), CHUNK):
        # The file is read instead of mapped, because mapped pages would count as memory in use.
        at = HEADER_BYTES + first * ids.itemsize
        chunk = np.fromfile(path, ids.dtype, CHUNK, offset=at)
        one, last = np.searchsorted(starts, (first, first + len(chunk) - 1), "right")
        bounds = np.clip(starts[one - 1 : last + 1], first, first + len(chunk))
        texts = np.repeat(np.arange(one - 1, last), np.diff(bounds.astype(np.int64)))
        for number, (vocabulary, size) in enumerate(vocabularies.items()):
            largest = int(chunk[texts % len(vocabularies) == number].max(initial=0))
            require(
                largest < size,
                f"{path} has the id {largest}, and {vocabulary} has the ids 0 to {size - 1}. "
                "Prepare it again.",
            )


def require_rising(path: Path, offsets: np.ndarray) -> None:
    """Require that the `offsets` in the file `path` begin with 0 and never fall."""
    require(
        int(offsets[0]) == 0 and bool((offsets[1:] >= offsets[:-1]).all()),
        f"{path} is damaged: the offsets in it should start at 0 and never fall. Prepare it again.",
    )


def _read_header(path: Path) -> dict[str, Any]:
    require(path.is_file(), f"There is no token file {path}; `jaxgpt prepare` makes it.")
    with path.open("rb") as file:
        raw = file.read(HEADER_BYTES)
    require(
        raw.startswith(MAGIC),
        f"{path} is not a token file of jaxgpt: its header is missing or damaged. If it is one of "
        "nanoGPT's, `jaxgpt prepare` takes the folder with train.bin and val.bin.",
    )
    try:
        header = json.loads(raw[len(MAGIC) :])
        numbers = [header.get(name) for name in ("count", "vocab_size", "text_bytes")]
        valid = (
            len(raw) == HEADER_BYTES
            and header.keys() == HEADER_FIELDS
            and header["version"] == 1
            and header["dtype"] in ("uint8", "uint16", "uint32", "uint64")
            and all(type(n) is int for n in numbers)
        )
    except (ValueError, TypeError, AttributeError):
        valid = False
    require(valid, f"{path} has a damaged header. Copy or prepare it again.")
    return header


def ids_in_chunks(
    path: Path, dtype: np.dtype, skip: int, first: int, last: int
) -> Iterator[np.ndarray]:
    """Ids `first` to `last` of a file whose ids begin at byte `skip`, in chunks.

    The file is read instead of mapped, because mapped pages would count as memory in use.
    """
    parts = (
        np.fromfile(path, dtype, min(CHUNK, last - at), offset=skip + at * dtype.itemsize)
        for at in range(first, last, CHUNK)
    )
    return with_progress(
        parts, f"copying {path.name}", lambda ids: ids.nbytes, (last - first) * dtype.itemsize
    )

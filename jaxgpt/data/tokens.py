"""Token files and the windows a step trains on, by (seed, step) alone. Knows no text, no tokenizer, no device."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.config import UserError, require
from jaxgpt.system.atomic_files import check_manifest

MAGIC = b"jaxgpt tokens\n"
HEADER_BYTES = (
    512  # the magic line, one JSON object, spaces; a multiple of 64, so that the ids are aligned
)
HEADER_FIELDS = {"version", "dtype", "count", "vocab_size", "text_bytes", "sha256"}
ABOUT = "data.json"  # where a prepared directory comes from, for people
FEW_WINDOWS = (
    4096  # with fewer, grain's shuffle takes long: it walks 2**16 indices to find one in range
)


@dataclass(frozen=True)
class Dataset:
    """An opened prepared directory; the bytes are those of the UTF-8 text, 0 where unknown."""

    path: Path
    vocab_size: int
    train: np.ndarray
    val: np.ndarray
    train_bytes: int
    val_bytes: int
    train_sha256: str  # of the ids: tells whether two directories hold the same data


def open_dataset(path: Path, verify: bool = True) -> Dataset:
    """`verify` reads every file once, to compare its sha256 with the manifest's."""
    require(
        (path / ABOUT).is_file(),
        f"{path} is no prepared directory, for it has no {ABOUT}. `jaxgpt prepare TEXT... --out {path}` makes it, from "
        "text or from nanoGPT's train.bin and val.bin.",
    )
    if verify:
        check_manifest(path)
    train, header = open_tokens(path / "train.bin")
    val, val_header = open_tokens(path / "val.bin")
    sizes = header["vocab_size"], val_header["vocab_size"]
    require(
        sizes[0] == sizes[1],
        f"{path}: train.bin has {sizes[0]} different ids, but val.bin {sizes[1]}.",
    )
    return Dataset(
        path, sizes[0], train, val, header["text_bytes"], val_header["text_bytes"], header["sha256"]
    )


def write_tokens(
    path: Path,
    pieces: Iterable[np.ndarray],
    vocab_size: int,
    text_bytes: Callable[[np.ndarray], int] = lambda ids: 0,
) -> dict[str, Any]:
    """Streamed; returns the header, whose text_bytes is the sum over the pieces."""
    dtype = np.dtype(
        next(
            t
            for t, most in (("u1", 1 << 8), ("<u2", 1 << 16), ("<u4", 1 << 32))
            if vocab_size <= most
        )
    )
    digest, count, size = hashlib.sha256(), 0, 0
    with path.open("wb") as file:
        file.write(bytes(HEADER_BYTES))
        for ids in pieces:
            wrong = (ids < 0) | (ids >= vocab_size)
            if wrong.any():
                at = int(wrong.argmax())
                raise UserError(
                    f"Id {ids[at]} at position {count + at} is outside the vocabulary of {vocab_size}."
                )
            payload = ids.astype(dtype).data
            file.write(payload)
            digest.update(payload)
            count += len(ids)
            size += text_bytes(ids)
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


def open_tokens(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The ids of one token file, mapped and not read, and its header."""
    header = _read_header(path)
    dtype = np.dtype(header["dtype"]).newbyteorder("<")
    expected, found = header["count"] * dtype.itemsize, path.stat().st_size - HEADER_BYTES
    require(
        expected == found,
        f"{path} is cut short or has grown: {header['count']} ids take {expected} bytes after the header, but there "
        f"are {found}. Copy or prepare it again.",
    )
    require(found > 0, f"{path} holds no ids. Prepare it again from a longer text.")
    return np.memmap(path, dtype, "r", HEADER_BYTES), header


def _read_header(path: Path) -> dict[str, Any]:
    require(path.is_file(), f"There is no token file {path}; `jaxgpt prepare` makes it.")
    with path.open("rb") as file:
        raw = file.read(HEADER_BYTES)
    require(
        raw.startswith(MAGIC),
        f"{path} is not a token file of jaxgpt: its header is missing or damaged. If it is one of nanoGPT's, "
        "`jaxgpt prepare` takes the folder with train.bin and val.bin.",
    )
    try:
        header = json.loads(raw[len(MAGIC) :])
        numbers = [header.get(name) for name in ("count", "vocab_size", "text_bytes")]
        whole = (
            len(raw) == HEADER_BYTES and header.keys() == HEADER_FIELDS and header["version"] == 1
        )
        whole = (
            whole
            and header["dtype"] in ("uint8", "uint16", "uint32")
            and all(type(n) is int for n in numbers)
        )
    except (ValueError, TypeError, AttributeError):
        whole = False
    require(whole, f"{path} has a damaged header. Copy or prepare it again.")
    return header


def batch(
    tokens: np.ndarray,
    *,
    seed: int,
    step: int,
    batch_size: int,
    context_length: int,
    rows: slice | np.ndarray = slice(None),
) -> np.ndarray:
    """(rows, T+1) int32 for this step: inputs are [:, :-1], targets [:, 1:]. Position step * B + row in an endless list
    of epochs, each of which has every window once; so there is no state, and hosts may take any `rows`."""
    windows = (len(tokens) - context_length) // context_length
    require(
        windows > 0,
        f"The training split has {len(tokens)} tokens, but context_length {context_length} needs at least "
        f"{2 * context_length}: give more text, or set a shorter context_length.",
    )
    require(0 <= seed < 1 << 32, f"seed must lie in [0, 2**32), but is {seed}.")
    starts = []
    for position in (step * batch_size + np.arange(batch_size)[rows]).tolist():
        epoch, index = divmod(position, windows)
        starts.append(
            _offset(seed, epoch, context_length)
            + context_length * _shuffled(windows, seed, epoch, index)
        )
    return np.lib.stride_tricks.sliding_window_view(tokens, context_length + 1)[starts].astype(
        np.int32
    )


@lru_cache(maxsize=16)
def _offset(seed: int, epoch: int, context_length: int) -> int:
    """Each epoch cuts the text elsewhere, so that what fell on a window's edge does not always do."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]) % context_length


def _shuffled(windows: int, seed: int, epoch: int, index: int) -> int:
    if windows < FEW_WINDOWS:
        return int(_short_order(windows, seed, epoch)[index])
    return int(_long_order(windows, seed)[epoch * windows + index])


@lru_cache(maxsize=16)
def _short_order(windows: int, seed: int, epoch: int) -> np.ndarray:
    keys = np.random.SeedSequence([seed, epoch, windows]).generate_state(windows, np.uint64)
    return np.argsort(keys, kind="stable")


@lru_cache(maxsize=16)
def _long_order(windows: int, seed: int) -> Any:
    import grain

    return grain.MapDataset.range(windows).seed(seed).shuffle()


def eval_windows(
    tokens: np.ndarray, *, batch_size: int, context_length: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(B, T+1) int32 and (B, T) bool: consecutive windows over the whole split, every target once; what pads the last
    window and the last batch is 0 and masked out."""
    last = len(tokens) - 1  # the position of the last target
    require(
        last > 0,
        f"The validation split has {len(tokens)} tokens; it takes 2 to have anything to predict.",
    )
    span = batch_size * context_length
    for start in range(0, last, span):
        firsts = start + context_length * np.arange(batch_size)
        places = firsts[:, None] + np.arange(context_length + 1)
        ids = np.where(places <= last, tokens[np.minimum(places, last)], 0).astype(np.int32)
        yield ids, places[:, 1:] <= last

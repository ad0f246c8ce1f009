"""Token files, and the windows of a training step as a function of (seed, step) alone."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.errors import UserError, require
from jaxgpt.system.atomic_files import check_manifest

MAGIC = b"jaxgpt tokens\n"
HEADER_BYTES = 512  # magic line, JSON object, spaces; a multiple of 64, so that ids are aligned
HEADER_FIELDS = {"version", "dtype", "count", "vocab_size", "text_bytes", "sha256"}
ABOUT = "data.json"  # the sources and settings of a prepared directory, for people
FEW_WINDOWS = 4096  # with fewer, grain's shuffle is slow: it tries up to 2**16 indices for each


@dataclass(frozen=True)
class Dataset:
    """An opened prepared directory; `*_bytes` are sizes of the UTF-8 text, 0 where unknown."""

    path: Path
    vocab_size: int
    train: np.ndarray
    val: np.ndarray
    train_bytes: int
    val_bytes: int
    train_sha256: str  # of the ids, to compare the data of two directories


def open_dataset(path: Path, verify: bool = True) -> Dataset:
    """Open the prepared directory `path`; `verify` compares the sha256 of every file first."""
    require(
        (path / ABOUT).is_file(),
        f"{path} is no prepared directory, for it has no {ABOUT}. `jaxgpt prepare TEXT... --out "
        f"{path}` makes it, from text or from nanoGPT's train.bin and val.bin.",
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
    """Write `pieces`, one at a time; return the header, where text_bytes is summed over them."""
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
                    f"Id {ids[at]} at position {count + at} is outside the vocabulary of "
                    f"{vocab_size}."
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
            and header["dtype"] in ("uint8", "uint16", "uint32")
            and all(type(n) is int for n in numbers)
        )
    except (ValueError, TypeError, AttributeError):
        valid = False
    require(valid, f"{path} has a damaged header. Copy or prepare it again.")
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
    """The windows of `step`, (rows, T+1) int32: inputs are [:, :-1], targets [:, 1:].

    Row r is window step * batch_size + r of an endless sequence of epochs, each of which has every
    window once. There is no state, and each host may ask for any `rows`.
    """
    windows = (len(tokens) - context_length) // context_length
    require(
        windows > 0,
        f"The training split has {len(tokens)} tokens, but context_length {context_length} needs "
        f"at least {2 * context_length}: give more text, or set a shorter context_length.",
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
    """The start of the first window, another in each epoch, so that window edges move."""
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
    """Consecutive windows over a whole split, (B, T+1) int32, and their masks, (B, T) bool.

    Every target occurs once; the padding of the last window and the last batch is 0 and masked out.
    """
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

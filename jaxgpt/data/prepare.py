"""Prepared directories from text: token files, a tokenizer, and the split for validation."""

import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxgpt.data.sources import Piece, documents, known_bytes
from jaxgpt.data.tokenizer import (
    META,
    ByteTokenizer,
    Tokenizer,
    Unencodable,
    load,
    train_bpe,
    train_char,
)
from jaxgpt.data.tokens import ABOUT, HEADER_BYTES, MAGIC, Dataset, open_dataset, write_tokens
from jaxgpt.errors import UserError, require
from jaxgpt.system.atomic_files import new_directory, write_json

TOGETHER = 1 << 20  # characters encoded, or ids copied, at once
MERGES_FROM = 1 << 26  # characters that merges are learnt from: more would hardly change them
MERGES_WORDS = 1 << 22  # bytes of distinct words among them, which the memory for learning follows
PATIENCE = 2.0  # seconds before a progress bar appears
Splits = dict[str, dict[str, Any]]  # name -> header of its token file
Item = TypeVar("Item")


def prepare(
    sources: Sequence[str],
    out: str | Path,
    *,
    tokenizer: str = "char",
    vocab_size: int = 8192,
    field: str = "text",
    val: float = 0.1,
    errors: str = "strict",
) -> Dataset:
    """Write the text of `sources` as a prepared directory at `out`, and open it.

    `tokenizer` is char, byte, bpe (`vocab_size` ids, learnt from the first 64 million characters,
    or fewer where there are very many distinct words), or a file or folder with a tokenizer. The
    last `val` of the ids, a fraction, is for validation. nanoGPT's train.bin and val.bin, named as
    their folder or as the two files, keep their own split and take the characters of a meta.pkl in
    the same folder.
    """
    require(bool(sources), "There is no text to prepare: name files, folders or other sources.")
    require(0 < val < 1, f"val is a part of the text, between 0 and 1, but is {val}.")
    about: dict[str, Any] = {"version": 1, "sources": list(sources)}
    with new_directory(out) as partial:
        if ready := _id_files(sources):
            used, splits = _take_ids(ready, partial, tokenizer)
        else:
            about |= {"field": field, "errors": errors, "val": val}
            with _reader(sources, partial, field, errors) as read:
                used = _tokenizer(tokenizer, read, vocab_size)
                splits = _split(_ids(read("encoding"), used), partial, used, val)
        if used:
            used.save(partial / "tokenizer.json")
        about |= {
            "tokenizer": used.kind if used else None,
            "vocab_size": splits["train"]["vocab_size"],
        }
        write_json(partial / ABOUT, about | {"splits": splits})
    return open_dataset(Path(out), verify=False)


def _tokenizer(choice: str, read: Callable[[str], Iterator[Piece]], vocab_size: int) -> Tokenizer:
    if choice == "char":
        return train_char(piece.text for piece in _joined(read("characters")))
    if choice == "bpe":
        return train_bpe(_sample(read("learning merges")), vocab_size)
    return _without_text(choice)


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


def _without_text(choice: str) -> Tokenizer:
    if choice == "byte":
        return ByteTokenizer()
    require(
        Path(choice).exists(),
        f"There is no tokenizer {choice}: it is char, byte, bpe, or a file or folder.",
    )
    return load(Path(choice))


def _ids(pieces: Iterator[Piece], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Ids of all documents, with an end of text between any two where the tokenizer has one."""
    ended = False
    for group in _groups(pieces if tokenizer.eot is not None else _joined(pieces)):
        for piece, ids in zip(group, _encoded(group, tokenizer), strict=True):
            if ended:
                yield np.array([tokenizer.eot])
            yield ids
            ended = tokenizer.eot is not None and piece.end is not None


def _joined(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The pieces with documents separated by text, for tokenizers without an end-of-text id."""
    separator = ""
    for piece in pieces:
        yield piece._replace(text=separator + piece.text, start=piece.start - len(separator))
        separator = piece.end or ""


def _groups(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    """Lists of about TOGETHER characters, so that short documents are encoded on all cores."""
    group: list[Piece] = []
    size = 0
    for piece in pieces:
        group.append(piece)
        size += len(piece.text)
        if size >= TOGETHER:
            yield group
            group, size = [], 0
    yield group


def _encoded(group: list[Piece], tokenizer: Tokenizer) -> list[np.ndarray]:
    try:
        return tokenizer.encode_many([piece.text for piece in group])
    except Unencodable as error:
        piece = group[error.which]
        raise UserError(
            f"{piece.where}: at character {piece.start + error.position} {error.problem}. Take it out of the text; "
            "or, for a model that is trained from scratch, use a tokenizer that keeps it, such as byte, or bpe made "
            "from this text."
        ) from None


def _split(ids: Iterable[np.ndarray], partial: Path, tokenizer: Tokenizer, val: float) -> Splits:
    """Write train.bin and val.bin; return their headers.

    The position of the cut depends on the number of ids, so all are first written to one file.
    """
    whole = partial / "whole.bin"
    header = write_tokens(whole, ids, tokenizer.vocab_size)
    count, dtype = header["count"], np.dtype(header["dtype"]).newbyteorder("<")
    cut = int((1 - val) * count)
    require(
        min(cut, count - cut) > 1,
        f"The text is too short: of its {count} tokens {cut} are for training and {count - cut} "
        "for validation, and each takes 2 at least. Give more text, or another part for validation "
        "(--val).",
    )
    splits = {}
    for name, first, last in (("train", 0, cut), ("val", cut, count)):
        chunks = _ids_in(whole, dtype, HEADER_BYTES, first, last)
        splits[name] = write_tokens(
            partial / f"{name}.bin", chunks, tokenizer.vocab_size, _text_bytes(tokenizer)
        )
    whole.unlink()
    return splits


def _text_bytes(tokenizer: Tokenizer | None) -> Callable[[np.ndarray], int]:
    """A function that counts the UTF-8 bytes of ids, 0 where their tokenizer is unknown."""
    if tokenizer is None:
        return lambda ids: 0
    eot = -1 if tokenizer.eot is None else tokenizer.eot
    return lambda ids: len(tokenizer.decode_bytes(ids[ids != eot]))


def _ids_in(path: Path, dtype: np.dtype, skip: int, first: int, last: int) -> Iterator[np.ndarray]:
    """Ids `first` to `last` of a file whose ids begin at byte `skip`, in chunks.

    The file is read and not mapped, as mapped pages would count as memory in use.
    """
    parts = (
        np.fromfile(path, dtype, min(TOGETHER, last - at), offset=skip + at * dtype.itemsize)
        for at in range(first, last, TOGETHER)
    )
    return _with_progress(
        parts, f"copying {path.name}", lambda ids: ids.nbytes, (last - first) * dtype.itemsize
    )


def _id_files(sources: Sequence[str]) -> dict[str, Path] | None:
    """The paths of nanoGPT's train.bin and val.bin by split, if `sources` are these two."""
    paths = sorted((Path(source) for source in sources), key=lambda path: path.name)
    if len(paths) == 1:
        paths = [paths[0] / "train.bin", paths[0] / "val.bin"]
    if [path.name for path in paths] != ["train.bin", "val.bin"] or not all(
        path.is_file() for path in paths
    ):
        return None
    return {path.stem: path for path in paths}


def _tokenizer_of_ids(meta: Path, choice: str) -> Tokenizer | None:
    """The tokenizer of ids: the `choice`, or the one in nanoGPT's `meta` by default."""
    if choice != "char":  # char is the default of `prepare`
        return _without_text(choice)
    if not meta.is_file():
        return None
    try:
        return load(meta)
    except UserError as error:
        others = "Or move it away to go without, or name a tokenizer with --tokenizer."
        raise UserError(f"{error} {others}") from None


def _take_ids(
    files: dict[str, Path], partial: Path, choice: str
) -> tuple[Tokenizer | None, Splits]:
    """Write nanoGPT's `files` as token files; return their tokenizer and headers."""
    require(
        choice != "bpe",
        "Byte-pair merges are learnt from text, and train.bin holds ids: name their tokenizer.",
    )
    tokenizer = _tokenizer_of_ids(files["train"].with_name(META), choice)
    for path in files.values():
        size = path.stat().st_size
        with path.open("rb") as file:
            prepared = file.read(len(MAGIC)) == MAGIC
        require(
            not prepared, f"{path} is prepared already: {path.parent} can be trained on as it is."
        )
        require(
            size % 2 == 0,
            f"{path} has {size} bytes, an odd number, but each of nanoGPT's ids takes 2: it is "
            "cut.",
        )
        require(
            size >= 4,
            f"{path} has {size} bytes; it takes two ids of 2 bytes to have anything to predict.",
        )

    def ids(path: Path) -> Iterator[np.ndarray]:
        return _ids_in(path, np.dtype("<u2"), 0, 0, path.stat().st_size // 2)

    vocab_size = (
        tokenizer.vocab_size
        if tokenizer
        else 1 + max(int(i.max()) for p in files.values() for i in ids(p))
    )
    splits = {}
    for name, path in files.items():
        try:
            splits[name] = write_tokens(
                partial / path.name, ids(path), vocab_size, _text_bytes(tokenizer)
            )
        except UserError as error:
            raise UserError(f"{path}: {error} Name the tokenizer that it was made with.") from None
    return tokenizer, splits


@contextlib.contextmanager
def _reader(
    sources: Sequence[str], folder: Path, field: str, errors: str
) -> Iterator[Callable[[str], Iterator[Piece]]]:
    """A function that reads all text at each call; standard input is kept in a file in `folder`."""
    with tempfile.TemporaryFile(dir=folder) as stdin:
        if "-" in sources:
            shutil.copyfileobj(sys.stdin.buffer, stdin)

        def read(what: str) -> Iterator[Piece]:
            stdin.seek(0)
            pieces = documents(sources, field, errors, stdin)
            return _with_progress(
                pieces, what, lambda piece: len(piece.text.encode()), known_bytes(sources)
            )

        yield read


def _with_progress(
    items: Iterator[Item], what: str, size: Callable[[Item], int], total: int | None
) -> Iterator[Item]:
    """The items, with a progress bar on a terminal when they take longer than PATIENCE."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich import console, progress

    columns = (
        progress.TextColumn(what),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TimeRemainingColumn(),
    )
    bar = progress.Progress(*columns, console=console.Console(stderr=True), transient=True)
    task, started = bar.add_task(what, total=total), time.monotonic()
    try:
        for item in items:
            yield item
            bar.advance(task, size(item))
            if time.monotonic() - started > PATIENCE:
                bar.start()
    finally:
        bar.stop()

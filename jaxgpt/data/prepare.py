"""Prepared directories from text: token files, a tokenizer, and the split for validation."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.data import nanogpt_ids
from jaxgpt.data.encoding import ids_of, tokenizer_for
from jaxgpt.data.sources import documents, known_bytes, reader
from jaxgpt.data.streamed import Streaming, is_stream, write_stream
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.data.tokens import (
    HEADER_BYTES,
    Dataset,
    Whole,
    ids_in_chunks,
    open_dataset,
    write_tokens,
)
from jaxgpt.errors import require
from jaxgpt.file_names import ABOUT, SPLITS, TOKENIZER
from jaxgpt.system.directories import new_directory, resumable_directory
from jaxgpt.system.json_files import write_json

Splits = dict[str, dict[str, Any]]  # name -> header of its token file


def prepare(
    sources: Sequence[str],
    out: str | Path,
    *,
    tokenizer: str = "char",
    vocab_size: int = 8192,
    field: str = "text",
    val: float = 0.1,
    errors: str = "strict",
    max_tokens: int | None = None,
) -> Dataset:
    """Write the text of `sources` as a prepared directory at `out`, and open it.

    `tokenizer` is char, byte, bpe (`vocab_size` ids, learnt from the first 64 million characters,
    or fewer where there are very many distinct words), or a file or folder with a tokenizer. The
    last `val` of the ids, a fraction, is for validation. nanoGPT's train.bin and val.bin, named as
    their folder or as the two files, keep their own split and take the characters of a meta.pkl in
    the same folder. With `max_tokens`, only that many ids are taken, from the beginning. A data set
    of the datasets library, as the only source, is read as a stream, which a later process can
    resume.
    """
    require_sources(sources, val)
    require(
        max_tokens is None or max_tokens > 0,
        f"max_tokens must be positive, but is {max_tokens}.",
    )
    about: dict[str, Any] = {"version": 1, "sources": list(sources)}
    texts = {"field": field, "errors": errors, "val": val, "max_tokens": max_tokens}
    used: Tokenizer | None
    with (resumable_directory if is_stream(sources) else new_directory)(out) as partial:
        if files := nanogpt_ids.find(sources):
            used, splits = nanogpt_ids.take(files, partial, tokenizer)
        elif is_stream(sources):
            about |= texts
            settings = field, errors, tokenizer, vocab_size, max_tokens
            used, whole = write_stream(Streaming(sources[0], partial, *settings))
            splits = _split(whole, partial, used, val)
        else:
            about |= texts
            with reader(
                sources,
                partial,
                lambda stdin: documents(sources, field, errors, stdin),
                lambda piece: len(piece.text.encode()),
                known_bytes(sources),
            ) as read:
                used = tokenizer_for(tokenizer, read, vocab_size)
                whole = _write_whole(ids_of(read("encoding"), used), partial, used, max_tokens)
                splits = _split(whole, partial, used, val)
        if used:
            used.save(partial / TOKENIZER)
        about |= {
            "tokenizer": used.kind if used else None,
            "vocab_size": splits["train"]["vocab_size"],
        }
        write_json(partial / ABOUT, about | {"splits": splits})
    return open_dataset(Path(out), verify=False)


def require_sources(sources: Sequence[str], val: float) -> None:
    """Require that there are sources, and that `val` is a fraction."""
    require(bool(sources), "There is no text to prepare: name files, folders or other sources.")
    require(
        0 < val < 1,
        f"val is the fraction of the text for validation, between 0 and 1, but is {val}.",
    )


def _write_whole(
    ids: Iterable[np.ndarray], partial: Path, tokenizer: Tokenizer, most: int | None
) -> Whole:
    """Write the first `most` ids to one file, because where to split them depends on their
    number."""
    file = partial / "whole.bin"
    header = write_tokens(file, _first(ids, most or sys.maxsize), tokenizer.vocab_size)
    dtype = np.dtype(header["dtype"]).newbyteorder("<")
    return Whole(file, dtype, HEADER_BYTES, header["count"])


def _first(ids: Iterable[np.ndarray], most: int) -> Iterator[np.ndarray]:
    """The first `most` of `ids`."""
    for chunk in ids:
        yield chunk[:most]
        most -= len(chunk)
        if most <= 0:
            return


def _split(whole: Whole, partial: Path, tokenizer: Tokenizer, val: float) -> Splits:
    """Write train.bin and val.bin, in place of `whole`; return their headers."""
    file, dtype, skip, count = whole
    cut = int((1 - val) * count)
    require(
        min(cut, count - cut) > 1,
        f"The text is too short: of its {count} tokens {cut} are for training and {count - cut} "
        "for validation, and each needs at least 2. Give more text, or set aside another part for "
        "validation (--val).",
    )
    splits = {}
    for name, first, last in (("train", 0, cut), ("val", cut, count)):
        chunks = ids_in_chunks(file, dtype, skip, first, last)
        splits[name] = write_tokens(
            partial / SPLITS[name], chunks, tokenizer.vocab_size, tokenizer.text_bytes
        )
    file.unlink()
    return splits

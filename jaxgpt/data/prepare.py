"""Prepared directories from text: token files, a tokenizer, and the split for validation."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.data import nanogpt_ids
from jaxgpt.data.encoding import encoded, groups, joined, tokenizer_for
from jaxgpt.data.formats import Piece
from jaxgpt.data.sources import documents, known_bytes, reader
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.data.tokens import (
    HEADER_BYTES,
    Dataset,
    ids_in_chunks,
    open_dataset,
    write_tokens,
)
from jaxgpt.errors import require
from jaxgpt.file_names import ABOUT, SPLITS, TOKENIZER
from jaxgpt.system.directories import new_directory
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
) -> Dataset:
    """Write the text of `sources` as a prepared directory at `out`, and open it.

    `tokenizer` is char, byte, bpe (`vocab_size` ids, learnt from the first 64 million characters,
    or fewer where there are very many distinct words), or a file or folder with a tokenizer. The
    last `val` of the ids, a fraction, is for validation. nanoGPT's train.bin and val.bin, named as
    their folder or as the two files, keep their own split and take the characters of a meta.pkl in
    the same folder.
    """
    require_sources(sources, val)
    about: dict[str, Any] = {"version": 1, "sources": list(sources)}
    with new_directory(out) as partial:
        if files := nanogpt_ids.find(sources):
            used, splits = nanogpt_ids.take(files, partial, tokenizer)
        else:
            about |= {"field": field, "errors": errors, "val": val}
            with reader(
                sources,
                partial,
                lambda stdin: documents(sources, field, errors, stdin),
                lambda piece: len(piece.text.encode()),
                known_bytes(sources),
            ) as read:
                used = tokenizer_for(tokenizer, read, vocab_size)
                splits = _split(_ids(read("encoding"), used), partial, used, val)
        if used:
            used.save(partial / TOKENIZER)
        about |= {
            "tokenizer": used.kind if used else None,
            "vocab_size": splits["train"]["vocab_size"],
        }
        write_json(partial / ABOUT, about | {"splits": splits})
    return open_dataset(Path(out), verify=False)


def require_sources(sources: Sequence[str], val: float) -> None:
    """Require that there are sources, and that `val` is a part of them."""
    require(bool(sources), "There is no text to prepare: name files, folders or other sources.")
    require(0 < val < 1, f"val is a part of the text, between 0 and 1, but is {val}.")


def _ids(pieces: Iterator[Piece], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Ids of all documents, with an end of text between any two where the tokenizer has one."""
    ended = False
    separated = pieces if tokenizer.eot is not None else joined(pieces)
    for group in groups(separated, lambda piece: len(piece.text)):
        for piece, ids in zip(group, encoded(group, tokenizer), strict=True):
            if ended:
                yield np.array([tokenizer.eot])
            yield ids
            ended = tokenizer.eot is not None and piece.end is not None


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
        chunks = ids_in_chunks(whole, dtype, HEADER_BYTES, first, last)
        splits[name] = write_tokens(
            partial / SPLITS[name], chunks, tokenizer.vocab_size, tokenizer.text_bytes
        )
    whole.unlink()
    return splits

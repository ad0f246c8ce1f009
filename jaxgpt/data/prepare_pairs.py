"""Prepared directories of pairs: token files with offsets, tokenizers, and the split."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.data.corpus_formats import SIDES
from jaxgpt.data.encoding import encode_pieces, groups, tokenizer_for
from jaxgpt.data.pair_sources import known_pair_bytes, pairs
from jaxgpt.data.pairs import PairDataset, open_pairs
from jaxgpt.data.pieces import Pair, Piece
from jaxgpt.data.prepare import require_sources
from jaxgpt.data.sources import reader
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.data.tokens import HEADER_BYTES, ids_in_chunks, narrowest, offsets_of, write_tokens
from jaxgpt.errors import require
from jaxgpt.file_names import ABOUT, OFFSETS, SPLITS, TARGET_TOKENIZER, TOKENIZER
from jaxgpt.system.directories import new_directory
from jaxgpt.system.json_files import write_json

LENGTH = np.dtype("<i8")
Tokenizers = tuple[Tokenizer, Tokenizer]  # for the sources and for the targets; may be the same
Splits = dict[str, dict[str, Any]]  # name -> headers of its two files


def prepare_pairs(
    sources: Sequence[str],
    out: str | Path,
    *,
    tokenizer: str = "char",
    target_tokenizer: str | None = None,
    vocab_size: int = 8192,
    fields: tuple[str, ...] = SIDES,
    val: float = 0.1,
    errors: str = "strict",
    max_length: int | None = None,
) -> PairDataset:
    """Write the pairs of `sources` as a prepared directory at `out`, and open it.

    `tokenizer` is as for `prepare`, made from both sides; with a `target_tokenizer` each is made
    from its own side. `fields` are the two fields of a record. The last `val` of the pairs, a
    fraction, is for validation. Pairs with more than `max_length` ids on a side are left out.
    """
    require_sources(sources, val)
    require(
        max_length is None or max_length > 0,
        f"max_length must be positive, but is {max_length}.",
    )
    about: dict[str, Any] = {"version": 1, "kind": "pairs", "sources": list(sources)}
    about |= {"fields": list(fields), "errors": errors, "val": val, "max_length": max_length}
    with new_directory(out) as partial:
        with reader(
            sources,
            partial,
            lambda stdin: pairs(sources, fields, errors, stdin),
            lambda pair: len("\t".join(side.text for side in pair).encode()) + 1,
            known_pair_bytes(sources),
        ) as read:
            used = _tokenizers(tokenizer, target_tokenizer, read, vocab_size)
            left_out = _write_whole(read("encoding"), partial, used, max_length or sys.maxsize)
        splits = _split(partial, used, val)
        used[0].save(partial / TOKENIZER)
        if target_tokenizer is not None:
            used[1].save(partial / TARGET_TOKENIZER)
        about |= {"left_out": left_out, **_vocabularies(used), "splits": splits}
        write_json(partial / ABOUT, about)
    return open_pairs(Path(out), verify=False)


def _tokenizers(
    choice: str, target_choice: str | None, read: Callable[[str], Iterator[Pair]], vocab_size: int
) -> Tokenizers:
    def texts_of(*sides: str) -> Callable[[str], Iterator[Piece]]:
        return lambda what: (getattr(pair, side) for pair in read(what) for side in sides)

    if target_choice is None:
        both = tokenizer_for(choice, texts_of(*SIDES), vocab_size)
        return both, both
    source, target = (
        tokenizer_for(chosen, texts_of(side), vocab_size)
        for chosen, side in zip((choice, target_choice), SIDES, strict=True)
    )
    return source, target


def _vocabularies(tokenizers: Tokenizers) -> dict[str, Any]:
    """The kinds and sizes of both vocabularies, and the ids that every target begins and ends with.

    Both are the end-of-text id, or two additional ids where the tokenizer has none.
    """
    source, target = tokenizers
    size, eot = target.vocab_size, target.eot
    return {
        "tokenizer": source.kind,
        "target_tokenizer": target.kind,
        "source_vocab_size": source.vocab_size,
        "target_vocab_size": size + 2 if eot is None else size,
        "start": size if eot is None else eot,
        "end": size + 1 if eot is None else eot,
    }


def _whole(folder: Path) -> tuple[Path, Path]:
    """The files with the ids and lengths of all pairs, which exist until the pairs are split."""
    return folder / "whole.bin", folder / "lengths.bin"


def _write_whole(read: Iterable[Pair], folder: Path, tokenizers: Tokenizers, longest: int) -> int:
    """Write the ids and lengths of all pairs; return the number of those left out as too long."""
    ids_file, lengths_file = _whole(folder)
    left_out = 0

    def ids() -> Iterator[np.ndarray]:
        nonlocal left_out
        for group in groups(read, lambda pair: sum(len(side.text) for side in pair)):
            encoded_sides = (
                encode_pieces(list(texts), tokenizer)
                for texts, tokenizer in zip(zip(*group, strict=True), tokenizers, strict=True)
            )
            every = list(zip(*encoded_sides, strict=True))
            short = [pair for pair in every if max(map(len, pair)) <= longest]
            left_out += len(every) - len(short)
            sides = [side for pair in short for side in pair]
            np.array([len(side) for side in sides], LENGTH).tofile(lengths)
            yield np.concatenate([np.empty(0, np.int32), *sides])

    with lengths_file.open("wb") as lengths:
        write_tokens(ids_file, ids(), max(each.vocab_size for each in tokenizers))
    return left_out


def _split(folder: Path, tokenizers: Tokenizers, val: float) -> Splits:
    """Write the ids and offsets of both splits; return their headers.

    Where to split depends on the number of pairs, so all of them are first written to one file.
    """
    ids_file, lengths_file = _whole(folder)
    count = lengths_file.stat().st_size // (2 * LENGTH.itemsize)
    cut = int((1 - val) * count)
    require(
        min(cut, count - cut) > 0,
        f"There are too few pairs: of {count}, {cut} would be for training and {count - cut} for "
        "validation, but each needs at least 1. Give more pairs, allow longer ones (--max-length), "
        "or set aside another part for validation (--val).",
    )
    vocab_size = max(each.vocab_size for each in tokenizers)
    dtype = narrowest(vocab_size)
    splits, first_id = {}, 0
    for name, first, last in (("train", 0, cut), ("val", cut, count)):
        lengths = (lengths_file, LENGTH, 0, 2 * first, 2 * last)
        total = sum(int(chunk.sum()) for chunk in ids_in_chunks(*lengths))
        ids = ids_in_chunks(ids_file, dtype, HEADER_BYTES, first_id, first_id + total)
        splits[name] = {
            "ids": write_tokens(folder / SPLITS[name], ids, vocab_size),
            "offsets": write_tokens(
                folder / OFFSETS[name], offsets_of(ids_in_chunks(*lengths)), total + 1
            ),
        }
        first_id += total
    ids_file.unlink()
    lengths_file.unlink()
    return splits

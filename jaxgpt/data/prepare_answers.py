"""Prepared directories of prompts and answers: token files, marks of the ids that count, and the
split."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgpt.data.answers import END, Example, examples, pieces
from jaxgpt.data.encoding import encode_pieces, groups, tokenizer_for
from jaxgpt.data.prepare import require_sources
from jaxgpt.data.sources import known_bytes, reader
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.data.tokens import Dataset, ids_in_chunks, offsets_of, open_dataset, write_tokens
from jaxgpt.errors import require
from jaxgpt.file_names import ABOUT, ANSWERS, OFFSETS, SPLITS, TOKENIZER
from jaxgpt.system.directories import new_directory
from jaxgpt.system.json_files import write_json

NUMBER = np.dtype("<i8")
COUNTED = np.dtype("u1")


class Whole(NamedTuple):
    """Files without headers that hold all examples until they are split."""

    ids: Path
    answers: Path
    lengths: Path

    @staticmethod
    def within(folder: Path) -> "Whole":
        return Whole(*(folder / f"whole.{name}" for name in ("ids", "answers", "lengths")))


def prepare_answers(
    sources: Sequence[str],
    out: str | Path,
    *,
    tokenizer: str = "char",
    vocab_size: int = 8192,
    val: float = 0.1,
    errors: str = "strict",
    max_length: int | None = None,
) -> Dataset:
    """Write the examples of `sources` as a prepared directory at `out`, and open it.

    `tokenizer` is as for `prepare`, made from prompts and answers. The last `val` of the examples,
    a fraction, is for validation. Examples of more than `max_length` ids are left out.
    """
    require_sources(sources, val)
    require(
        max_length is None or max_length > 1, f"max_length must be above 1, but is {max_length}."
    )
    about: dict[str, Any] = {"version": 1, "kind": "answers", "sources": list(sources)}
    about |= {"errors": errors, "val": val, "max_length": max_length}
    with new_directory(out) as partial:
        with reader(
            sources,
            partial,
            lambda _: examples(sources, errors),
            lambda example: sum(len(piece.text.encode()) for piece in pieces(example)),
            known_bytes(sources),
        ) as read:
            used = tokenizer_for(
                tokenizer,
                lambda what: (piece for example in read(what) for piece in pieces(example)),
                vocab_size,
            )
            left_out = _write_whole(read("encoding"), Whole.within(partial), used, max_length)
        splits = _split(partial, used, val)
        used.save(partial / TOKENIZER)
        about |= {"left_out": left_out, "tokenizer": used.kind, "vocab_size": used.vocab_size}
        write_json(partial / ABOUT, about | {"splits": splits})
    return open_dataset(Path(out), verify=False)


def _write_whole(
    read: Iterable[Example], files: Whole, tokenizer: Tokenizer, longest: int | None
) -> int:
    """Write all examples; return the number of those left out as too long."""
    left_out = 0
    end = tokenizer.encode(END) if tokenizer.eot is None else np.array([tokenizer.eot], np.int32)
    ids_file, answers_file, lengths_file = (file.open("wb") for file in files)
    with ids_file, answers_file, lengths_file:
        for group in groups(read, lambda example: sum(len(p.text) for p in pieces(example))):
            sides = [side for example in group for turn in example for side in turn]
            texts = iter(encode_pieces(sides, tokenizer))
            for example in group:
                ids, counts = [], []
                for _ in example:
                    prompt, answer = next(texts), np.concatenate([next(texts), end])
                    ids += [prompt, answer]
                    counts += [np.zeros(len(prompt), COUNTED), np.ones(len(answer), COUNTED)]
                length = sum(map(len, ids))
                if longest is not None and length > longest:
                    left_out += 1
                    continue
                np.concatenate(ids).astype(NUMBER).tofile(ids_file)
                np.concatenate(counts).tofile(answers_file)
                np.array([length], NUMBER).tofile(lengths_file)
    return left_out


def _split(folder: Path, tokenizer: Tokenizer, val: float) -> dict[str, dict[str, Any]]:
    """Write the files of both splits; return their headers."""
    files = Whole.within(folder)
    count = files.lengths.stat().st_size // NUMBER.itemsize
    cut = int((1 - val) * count)
    require(
        min(cut, count - cut) > 0,
        f"There are too few examples: of {count}, {cut} would be for training and {count - cut} "
        "for validation, but each needs at least 1. Give more of them, allow longer ones "
        "(--max-length), or set aside another part for validation (--val).",
    )
    splits, first_id = {}, 0
    for name, first, last in (("train", 0, cut), ("val", cut, count)):
        lengths = (files.lengths, NUMBER, 0, first, last)
        total = sum(int(chunk.sum()) for chunk in ids_in_chunks(*lengths))
        part = (0, first_id, first_id + total)
        parts = {
            "ids": (SPLITS[name], ids_in_chunks(files.ids, NUMBER, *part), tokenizer.vocab_size),
            "answers": (ANSWERS[name], ids_in_chunks(files.answers, COUNTED, *part), 2),
            "offsets": (OFFSETS[name], offsets_of(ids_in_chunks(*lengths)), total + 1),
        }
        splits[name] = {
            what: write_tokens(folder / file, ids, size)
            for what, (file, ids, size) in parts.items()
        }
        first_id += total
    for file in files:
        file.unlink()
    return splits

"""Documents of a text, and windows of a fixed length that hold whole documents."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from jaxgpt.data.tokenizer_files import load
from jaxgpt.data.tokens import CHUNK, Dataset
from jaxgpt.errors import UserError
from jaxgpt.file_names import TOKENIZER


class Spans(NamedTuple):
    """Parts of a sequence of ids, each from its start to before its stop."""

    starts: np.ndarray
    stops: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        """The number of targets in each span: ids that have another one before them."""
        return self.stops - self.starts - 1


def end_of_text(dataset: Dataset, pack: str) -> int:
    """The end-of-text id of `dataset`, which `pack`, a value of data.pack, needs."""
    file = dataset.path / TOKENIZER
    tokenizer = load(file) if file.exists() else None
    if tokenizer is not None and tokenizer.eot is not None:
        return tokenizer.eot
    reason = "there is no tokenizer in it"
    if tokenizer is not None:
        reason = f"its {tokenizer.kind} tokenizer of {tokenizer.vocab_size} ids has no such id"
    raise UserError(
        f"data.pack is {pack}, but {dataset.path} does not show where its documents end: that "
        f"takes an end-of-text id, but {reason}. Prepare the text again with a tokenizer that has "
        "one, such as bpe, or leave data.pack out."
    )


def documents(ids: np.ndarray, eot: int) -> Spans:
    """The documents of a text whose documents are separated by `eot`.

    `eot` is both the last id of a document and the first of the next, so that every id of the text
    except the first is a target once.
    """
    chunks = [at + np.flatnonzero(ids[at : at + CHUNK] == eot) for at in range(0, len(ids), CHUNK)]
    borders = np.concatenate([np.empty(0, np.int64), *chunks])
    spans = Spans(np.append(0, borders), np.append(borders + 1, len(ids)))
    return Spans(*(part[spans.targets > 0] for part in spans))


def cut(spans: Spans, most: int) -> Spans:
    """The spans in pieces of at most `most` targets; the last id of a piece also begins the
    next."""
    counts = -(-spans.targets // most)
    pieces = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(spans.starts, counts) + pieces * most
    return Spans(starts, np.minimum(starts + most + 1, np.repeat(spans.stops, counts)))


def windows_of(sizes: np.ndarray, room: int) -> np.ndarray:
    """The window that each of `sizes` goes to, chosen to leave little of the `room` unused.

    Best fit decreasing: the largest first, each into the fullest window that has room for it.
    """
    order = np.argsort(-sizes, kind="stable")
    whole = int((sizes == room).sum())  # fill a window each
    return _inverse(order, [*range(whole), *_best_fit(sizes[order[whole:]].tolist(), room, whole)])


def _best_fit(sizes: list[int], room: int, first: int) -> Iterable[int]:
    """The window of each of `sizes`, in descending order; new windows count from `first`."""
    by_room: list[list[int]] = [[] for _ in range(room + 1)]  # windows by the room left in them
    rooms = 0  # bit i is set if by_room[i] is not empty
    for size in sizes:
        if fitting := rooms >> size:
            left = size + (fitting & -fitting).bit_length() - 1
            window = by_room[left].pop()
            if not by_room[left]:
                rooms &= ~(1 << left)
        else:
            left, window = room, first
            first += 1
        by_room[left - size].append(window)
        rooms |= 1 << (left - size)
        yield window


def _inverse(order: np.ndarray, values: list[int]) -> np.ndarray:
    """`values`, which are sorted by `order`, back in their original order."""
    placed = np.empty(len(order), np.int64)
    placed[order] = values
    return placed

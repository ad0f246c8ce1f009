"""Batches of windows whose documents do not attend to each other, for steps and evaluations."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxgpt.data.batches import eval_windows, shuffled
from jaxgpt.data.packing import Spans, cut, documents, end_of_text, windows_of
from jaxgpt.data.tokens import Dataset
from jaxgpt.errors import require


class TextBatch(NamedTuple):
    """Rows of text, arrays of the host or of devices; padding is id 0 in segment 0."""

    tokens_bt: Any  # int32, what the model reads
    targets_bt: Any  # int32, what it should predict
    target_mask_bt: Any  # True where the loss counts
    # int32, the document of each position, numbered from 1; None if a row is one document
    segments_bt: Any = None
    positions_bt: Any = None  # int32, counted in each document; None if counted in the whole row


@dataclass(frozen=True, eq=False)
class Windows:
    """A split as windows of whole documents."""

    ids: np.ndarray
    answers: np.ndarray | None  # 1 for each id that counts as a target; None if all do
    context_length: int
    pack: str  # the value of data.pack; off puts one document in each window
    spans: Spans  # the documents, sorted by window
    firsts: np.ndarray  # the first document of each window; at the end, the number of documents

    def __len__(self) -> int:
        return len(self.firsts) - 1

    @property
    def padding_share(self) -> float:
        """The fraction of all positions that are padding."""
        return 1 - int(self.spans.targets.sum()) / (len(self) * self.context_length)

    def rows(self, numbers: np.ndarray) -> TextBatch:
        """The windows with these `numbers`; -1 stands for one without documents."""
        shape = len(numbers), self.context_length
        tokens, targets, segments, positions = (np.zeros(shape, np.int32) for _ in range(4))
        mask = np.zeros(shape, bool)
        for row, number in enumerate(numbers.tolist()):
            at = 0
            first, last = self.firsts[number : number + 2] if number >= 0 else (0, 0)
            for segment, (start, stop) in enumerate(self._spans(first, last), 1):
                place = row, slice(at, at + stop - start - 1)
                tokens[place] = self.ids[start : stop - 1]
                targets[place] = self.ids[start + 1 : stop]
                mask[place] = self.answers is None or self.answers[start + 1 : stop]
                segments[place] = segment
                positions[place] = np.arange(stop - start - 1)
                at += stop - start - 1
        match self.pack:
            case "off":
                return TextBatch(tokens, targets, mask)
            case "continue":
                return TextBatch(tokens, targets, mask, segments)
        return TextBatch(tokens, targets, mask, segments, positions)

    def batch(self, *, seed: int, step: int, batch_size: int) -> TextBatch:
        """The batch of `step`, a function of `seed` and `step`; an epoch has each window once."""
        require(0 <= seed < 1 << 32, f"seed must lie in [0, 2**32), but is {seed}.")
        numbers = []
        for position in range(step * batch_size, (step + 1) * batch_size):
            epoch, index = divmod(position, len(self))
            numbers.append(shuffled(len(self), seed, epoch)[index])
        return self.rows(np.array(numbers))

    def eval_batches(self, batch_size: int) -> Iterator[TextBatch]:
        """Batches with every window once, always in the same random order."""
        count = len(self)
        numbers = np.append(shuffled(count, 0), np.full(-count % batch_size, -1))
        for at in range(0, len(numbers), batch_size):
            yield self.rows(numbers[at : at + batch_size])

    def _spans(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        parts = (part[first:last].tolist() for part in self.spans)
        return zip(*parts, strict=True)


def make_windows(
    ids: np.ndarray, spans: Spans, context_length: int, pack: str, answers: np.ndarray | None = None
) -> Windows:
    """Windows of the documents `spans`, none of which has more targets than `context_length`."""
    require(
        len(spans.starts) > 0,
        f"A split of {len(ids)} tokens has no document of two or more: give more text.",
    )
    window = np.arange(len(spans.starts))
    if pack != "off":
        window = windows_of(spans.targets, context_length)
    order = np.argsort(window, kind="stable")
    counts = np.bincount(window)
    sorted_spans = Spans(*(part[order] for part in spans))
    firsts = np.append(0, np.cumsum(counts))
    return Windows(ids, answers, context_length, pack, sorted_spans, firsts)


def split_of(dataset: Dataset, name: str, context_length: int, pack: str) -> np.ndarray | Windows:
    """The split `name`: its ids, if they are read as one text, or else windows."""
    ids: np.ndarray = getattr(dataset, name)
    if dataset.examples is not None:
        examples = dataset.examples[name]
        offsets = examples.offsets.astype(np.int64)
        spans = Spans(offsets[:-1], offsets[1:])
        _require_room(dataset, spans, context_length)
        return make_windows(ids, spans, context_length, pack, examples.answers)
    if pack == "off":
        return ids
    spans = cut(documents(ids, end_of_text(dataset, pack)), context_length)
    return make_windows(ids, spans, context_length, pack)


def _require_room(dataset: Dataset, spans: Spans, context_length: int) -> None:
    """Require that every example fits in a window, as an answer must not lose its prompt."""
    long = spans.targets > context_length
    first = int(long.argmax())
    require(
        not long.any(),
        f"{long.sum():,} of {len(long):,} examples in {dataset.path} are longer than the model's "
        f"context. The first is example {first + 1} of its split: its {spans.targets[first] + 1} "
        f"tokens take {spans.targets[first]} positions of {context_length}. Set a longer "
        "model.context_length, or leave long examples out with jaxgpt prepare --max-length "
        f"{context_length + 1}.",
    )


def eval_batches(
    split: np.ndarray | Windows, batch_size: int, context_length: int
) -> Iterator[TextBatch]:
    """The batches of an evaluation of `split`, in which every target occurs once."""
    if isinstance(split, Windows):
        yield from split.eval_batches(batch_size)
    else:
        windows = eval_windows(split, batch_size=batch_size, context_length=context_length)
        for ids, mask in windows:
            yield TextBatch(ids[:, :-1], ids[:, 1:], mask)


def eval_batch_count(split: np.ndarray | Windows, batch_size: int, context_length: int) -> int:
    """The number of `eval_batches`."""
    windows = len(split) if isinstance(split, Windows) else -(-(len(split) - 1) // context_length)
    return -(-windows // batch_size)

"""Batches of pairs: those of a training step, a function of (seed, step), and of an evaluation.

Pairs of similar length share a bucket, and all batches of a bucket have one shape.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxgpt.data.batches import shuffled
from jaxgpt.data.pairs import PairSplit
from jaxgpt.errors import require

MOST_BUCKETS = 6
BATCHES_EACH = 4  # least batches of a bucket in an epoch, as those that are not full are left out
CANDIDATES = 256  # candidate shapes for the buckets


class PairBatch(NamedTuple):
    """A batch of pairs, arrays of the host or of devices; padding is id 0 where masks are False."""

    source_bs: Any  # int32
    source_mask_bs: Any  # True at tokens, False at padding
    tokens_bt: Any  # int32, what the decoder reads: start, target
    targets_bt: Any  # int32, what it should predict: target, end
    target_mask_bt: Any  # True where the loss counts


class Shape(NamedTuple):
    """The shape of a batch: rows, positions of the source, positions of the target."""

    rows: int
    source: int
    target: int


@dataclass(frozen=True, eq=False)
class Buckets:
    """A split, sorted into buckets for batches of one size."""

    split: PairSplit
    batch_size: int
    shapes: tuple[Shape, ...]  # one for each bucket; no batch has another shape
    members: tuple[np.ndarray, ...]  # the indices of the pairs in each bucket

    def padding_share(self) -> float:
        """The fraction of all positions, of sources and targets, that are padding."""
        positions = sum(
            len(pairs) * (shape.source + shape.target)
            for shape, pairs in zip(self.shapes, self.members, strict=True)
        )
        return 1 - (len(self.split.ids) + len(self.split)) / positions

    def full_batches(self) -> list[int]:
        """The number of full batches of each bucket; together they are an epoch."""
        return [len(pairs) // self.batch_size for pairs in self.members]


def make_buckets(
    split: PairSplit, batch_size: int, source_context: int, target_context: int
) -> Buckets:
    """Sort a split into up to MOST_BUCKETS buckets with little padding.

    `source_context` is the context of the encoder, and `target_context` that of the decoder, which
    reads the start and the target.
    """
    sources, targets = split.source_lengths, split.target_lengths + 1
    _require_contexts(sources, targets, source_context, target_context)
    # A pair has the level of the first candidate shape that both of its sides fit.
    ranks = -(-np.arange(1, CANDIDATES + 1) * len(split) // CANDIDATES) - 1
    source_sizes, target_sizes = np.sort(sources)[ranks], np.sort(targets)[ranks]
    levels = np.maximum(
        np.searchsorted(source_sizes, sources), np.searchsorted(target_sizes, targets)
    )
    counts = np.bincount(levels, minlength=CANDIDATES)
    last_levels = _cheapest(counts, source_sizes + target_sizes, BATCHES_EACH * batch_size)
    bucket_of_pair = np.searchsorted(last_levels, levels)
    return Buckets(
        split,
        batch_size,
        tuple(Shape(batch_size, int(source_sizes[i]), int(target_sizes[i])) for i in last_levels),
        tuple(np.flatnonzero(bucket_of_pair == i) for i in range(len(last_levels))),
    )


def batch(
    buckets: Buckets, *, seed: int, step: int, rows: slice | np.ndarray = slice(None)
) -> PairBatch:
    """The `rows` of the batch of `step`.

    Each epoch has the full batches of all buckets in random order. Every pair occurs once, except
    for the few that do not fill a batch; these differ from epoch to epoch. There is no state, and
    each host may ask for any `rows`.
    """
    count = sum(buckets.full_batches())
    require(
        count > 0,
        f"The training split has {len(buckets.split)} pairs, but a batch takes "
        f"{buckets.batch_size}: give more pairs, or set a smaller batch_size.",
    )
    require(0 <= seed < 1 << 32, f"seed must lie in [0, 2**32), but is {seed}.")
    epoch, index = divmod(step, count)
    number = shuffled(count, seed, epoch)[index]
    firsts = np.concatenate([[0], np.cumsum(buckets.full_batches())])
    bucket = int(np.searchsorted(firsts, number, side="right")) - 1
    start = (number - firsts[bucket]) * buckets.batch_size
    members = buckets.members[bucket]
    places = shuffled(len(members), seed, epoch, bucket)[start : start + buckets.batch_size]
    return _padded(buckets, bucket, members[places][rows])


def eval_batches(buckets: Buckets) -> Iterator[PairBatch]:
    """Batches with every pair of the split once.

    The last batch of a bucket is filled up with rows that have a source and no target.
    """
    size = buckets.batch_size
    for bucket, members in enumerate(buckets.members):
        for first in range(0, len(members), size):
            pairs = members[first : first + size]
            filled = np.concatenate([pairs, np.full(size - len(pairs), pairs[0])])
            padded = _padded(buckets, bucket, filled)
            for part in (padded.tokens_bt, padded.targets_bt, padded.target_mask_bt):
                part[len(pairs) :] = 0
            yield padded


def _padded(buckets: Buckets, bucket: int, pairs: np.ndarray) -> PairBatch:
    """The `pairs`, padded to the shape of their bucket."""
    split, shape = buckets.split, buckets.shapes[bucket]
    firsts, middles, lasts = (split.offsets[2 * pairs + i].astype(np.int64) for i in range(3))
    source, source_mask = _rows(split.ids, firsts, middles, shape.source)
    target, target_mask = _rows(split.ids, middles, lasts, shape.target)
    starts = np.full((len(pairs), 1), split.start, np.int32)
    tokens = np.concatenate([starts, target[:, :-1]], axis=1)
    lengths = (lasts - middles)[:, None]
    np.put_along_axis(target, lengths, split.end, axis=1)
    np.put_along_axis(target_mask, lengths, True, axis=1)
    return PairBatch(source, source_mask, tokens, target, target_mask)


def _rows(
    ids: np.ndarray, firsts: np.ndarray, lasts: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """The ids from `firsts` to before `lasts` as rows of `width`, and the mask of these ids."""
    places = firsts[:, None] + np.arange(width)
    mask = places < lasts[:, None]
    return np.where(mask, ids[np.where(mask, places, 0)], 0).astype(np.int32), mask


def _cheapest(counts: np.ndarray, costs: np.ndarray, least: int) -> np.ndarray:
    """The last level of each bucket, chosen to minimise the total number of positions.

    `counts` has the number of pairs of each level. A bucket whose last level is i takes `costs[i]`
    positions for each of its pairs; it has at least `least` pairs, unless it is the only bucket.
    """
    before = np.concatenate([[0], np.cumsum(counts)])  # pairs below each level
    inside = before[None, 1:] - before[:-1, None]  # [i, j]: pairs of a bucket of levels i to j
    single = inside * costs
    total = np.where(inside >= least, single, np.inf)
    last = len(counts) - 1
    best, choice = single[0, last], np.array([last])
    ways, paths = total[0], [[level] for level in range(len(counts))]
    for _ in range(MOST_BUCKETS - 1):
        joined = ways[:-1, None] + total[1:]  # [i, j]: one more bucket, of levels i + 1 to j
        previous = joined.argmin(axis=0)
        ways = joined.min(axis=0)
        paths = [[*paths[i], level] for level, i in enumerate(previous)]
        if ways[last] < best:
            best, choice = ways[last], np.array(paths[last])
    return choice


def _require_contexts(
    sources: np.ndarray, targets: np.ndarray, source_context: int, target_context: int
) -> None:
    long = (sources > source_context) | (targets > target_context)
    first = int(long.argmax())
    require(
        not long.any(),
        f"{long.sum():,} of {len(long):,} pairs are longer than the model's contexts. The first is "
        f"pair {first + 1}: its source takes {sources[first]} positions of the encoder's "
        f"{source_context}, and its target with the start {targets[first]} of the decoder's "
        f"{target_context}. Make the contexts longer, or leave long pairs out with jaxgpt prepare "
        f"--max-length {min(source_context, target_context - 1)}.",
    )

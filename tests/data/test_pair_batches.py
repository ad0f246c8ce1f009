"""Batches of pairs depend only on (seed, step), leave nothing out, and have little padding."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import pytest

from jaxgpt.data import pair_batches
from jaxgpt.data.pair_batches import Buckets, PairBatch, batch, eval_batches, make_buckets
from jaxgpt.data.pairs import PairSplit
from jaxgpt.errors import UserError

START, END = 1000, 1001


def split_of(sources: Sequence[int], targets: Sequence[int], seed: int = 0) -> PairSplit:
    """Pairs of these lengths: random ids, of which each text's first two tell which it is."""
    lengths = np.stack([sources, targets], axis=1).ravel()
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.random.default_rng(seed).integers(2, 999, offsets[-1]).astype(np.uint16)
    return PairSplit(ids, offsets.astype(np.uint32), START, END)


def random_split(seed: int, pairs: int | None = None) -> PairSplit:
    """A split with random lengths of a random kind of distribution."""
    draw = np.random.default_rng(seed)
    count = pairs or int(draw.integers(1, 400))
    kinds = [
        draw.integers(1, 30, count),
        np.clip(draw.lognormal(2, 1, count), 1, 300).astype(int),
        np.full(count, 7),
    ]
    one, other = draw.integers(0, len(kinds), 2)
    return split_of(kinds[one], np.maximum(1, kinds[other] + draw.integers(-2, 3, count)), seed)


def texts(batches: Iterable[PairBatch]) -> Counter[tuple[bytes, bytes]]:
    """The pairs of all rows that have a target, taken from the arrays by their masks."""
    found: Counter[tuple[bytes, bytes]] = Counter()
    for each in batches:
        for source, mask, targets, target_mask in zip(
            each.source_bs, each.source_mask_bs, each.targets_bt, each.target_mask_bt, strict=True
        ):
            if target_mask.any():
                found[source[mask].tobytes(), targets[target_mask].tobytes()] += 1
    return found


def every_pair(split: PairSplit) -> Counter[tuple[bytes, bytes]]:
    return Counter(
        (source.tobytes(), np.append(target, END).astype(np.int32).tobytes())
        for source, target in (split[i] for i in range(len(split)))
    )


def steps_of(buckets: Buckets, epoch: int) -> range:
    count = sum(buckets.full_batches())
    return range(epoch * count, (epoch + 1) * count)


def require_consistent(each: PairBatch, buckets: Buckets) -> None:
    """Require what every batch promises of its arrays."""
    source, source_mask, tokens, targets, target_mask = each
    assert [part.dtype for part in each] == [np.int32, bool, np.int32, np.int32, bool]
    assert source.shape == source_mask.shape
    assert tokens.shape == targets.shape == target_mask.shape
    assert (len(source), source.shape[1], targets.shape[1]) in buckets.shapes
    for values, mask in ((source, source_mask), (targets, target_mask)):
        assert not values[~mask].any()
        assert values[mask].all()
        assert (np.diff(mask.astype(int), axis=1) <= 0).all()  # real tokens come first
    assert source_mask.any(axis=1).all()
    real = target_mask.any(axis=1)
    assert (tokens[real, 0] == START).all()
    lasts = target_mask.sum(axis=1) - 1
    assert (np.take_along_axis(targets, lasts[:, None], axis=1)[real] == END).all()
    inside = target_mask[:, 1:]
    np.testing.assert_array_equal(tokens[:, 1:], np.where(inside, targets[:, :-1], 0))


@pytest.mark.parametrize("seed", range(25))
def test_each_epoch_has_each_pair_once_except_those_that_fill_no_batch(seed: int) -> None:
    split = random_split(seed)
    size = min(1 + seed % 7, len(split))
    buckets = make_buckets(split, size, 512, 512)
    every = every_pair(split)
    assert sum(map(len, buckets.members)) == len(split)
    assert len(buckets.shapes) <= pair_batches.MOST_BUCKETS
    assert len({*buckets.shapes}) == len(buckets.shapes)
    for epoch in range(2):
        batches = [batch(buckets, seed=seed, step=step) for step in steps_of(buckets, epoch)]
        for each in batches:
            require_consistent(each, buckets)
        drawn = texts(batches)
        assert drawn <= every
        left_out = len(split) - sum(drawn.values())
        assert left_out == sum(len(pairs) % size for pairs in buckets.members)


@pytest.mark.parametrize("seed", range(25))
def test_an_evaluation_has_every_pair_once(seed: int) -> None:
    split = random_split(seed)
    buckets = make_buckets(split, 1 + seed % 11, 512, 512)
    batches = list(eval_batches(buckets))
    for each in batches:
        require_consistent(each, buckets)
    assert texts(batches) == every_pair(split)
    targets = sum(int(each.target_mask_bt.sum()) for each in batches)
    assert targets == split.target_lengths.sum() + len(split)


def test_each_epoch_leaves_out_different_pairs() -> None:
    split = random_split(1, pairs=103)
    buckets = make_buckets(split, 8, 512, 512)
    every = every_pair(split)
    left_out = [
        every - texts(batch(buckets, seed=0, step=step) for step in steps_of(buckets, epoch))
        for epoch in range(12)
    ]
    assert all(left_out)
    assert len({frozenset(one) for one in left_out}) > 6
    assert (
        texts(
            batch(buckets, seed=0, step=step)
            for epoch in range(12)
            for step in steps_of(buckets, epoch)
        ).keys()
        == every.keys()
    )


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    split = random_split(1, pairs=300)
    buckets, again = (make_buckets(split, 4, 512, 512) for _ in range(2))
    steps = [17, 3, 250, 3, 0]
    batches = [batch(buckets, seed=5, step=step) for step in steps]
    for step, expected in zip(reversed(steps), reversed(batches), strict=True):
        for one, other in zip(batch(again, seed=5, step=step), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    orders = [
        [texts([batch(buckets, seed=seed, step=step)]) for step in steps_of(buckets, epoch)]
        for seed, epoch in ((5, 0), (5, 1), (6, 0))
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    shapes = [batch(buckets, seed=5, step=step).source_bs.shape for step in range(20)]
    assert len({*shapes}) > 1  # long and short pairs alternate


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_the_rows_of_hosts_are_the_whole_batch(hosts: int) -> None:
    buckets = make_buckets(random_split(1, pairs=300), 8, 512, 512)
    for step in (0, 5, 100):
        whole = batch(buckets, seed=3, step=step)
        shares = np.split(np.arange(8), hosts)
        parts = [batch(buckets, seed=3, step=step, rows=rows) for rows in shares]
        sliced = batch(buckets, seed=3, step=step, rows=slice(2, 5))
        for name, array in whole._asdict().items():
            joined = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(joined, array)
            np.testing.assert_array_equal(getattr(sliced, name), array[2:5])


def test_the_order_is_the_same_on_every_machine() -> None:
    split = split_of(np.arange(1, 41) % 10 + 1, np.arange(40) % 3 + 1)
    buckets = make_buckets(split, 3, 99, 99)
    drawn = [batch(buckets, seed=7, step=step).source_mask_bs.sum(axis=1) for step in range(4)]
    assert np.concatenate(drawn).tolist() == [7, 4, 5, 9, 10, 9, 4, 7, 6, 5, 3, 2]


def test_padding_is_small_even_for_skewed_lengths() -> None:
    draw = np.random.default_rng(0)
    sources = np.clip(draw.lognormal(3, 0.7, 20_000), 1, 400).astype(int)
    targets = np.clip(sources * draw.uniform(0.8, 1.3, 20_000), 1, 400).astype(int)
    buckets = make_buckets(split_of(sources, targets), 64, 512, 512)
    real = sources.sum() + targets.sum() + len(sources)
    one_bucket = len(sources) * (sources.max() + targets.max() + 1)
    assert 1 - real / one_bucket > 0.9
    positions = sum(each.source_bs.size + each.targets_bt.size for each in eval_batches(buckets))
    assert buckets.padding_share() < 0.32
    assert abs(1 - real / positions - buckets.padding_share()) < 0.02
    full = sum(buckets.full_batches()) * 64
    assert full > 0.98 * len(sources)


def positions_of(lasts: Sequence[int], counts: np.ndarray, costs: np.ndarray, least: int) -> float:
    """The positions of buckets with these last levels, infinite where one has too few pairs."""
    edges = [-1, *lasts]
    inside = [counts[a + 1 : b + 1].sum() for a, b in zip(edges, lasts, strict=False)]
    if len(lasts) > 1 and min(inside) < least:
        return np.inf
    return float(np.dot(inside, costs[[*lasts]]))


def test_no_choice_of_buckets_is_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against every choice of at most three buckets among eight candidates."""
    monkeypatch.setattr(pair_batches, "MOST_BUCKETS", 3)
    choices = [(*inner, 7) for n in range(3) for inner in combinations(range(7), n)]
    for seed in range(30):
        draw = np.random.default_rng(seed)
        counts, costs = draw.integers(0, 20, 8), np.sort(draw.integers(1, 50, 8))
        least = int(draw.integers(1, 30))
        chosen = pair_batches._cheapest(counts, costs, least).tolist()
        best = min(positions_of(lasts, counts, costs, least) for lasts in choices)
        assert positions_of(chosen, counts, costs, least) == best


def test_equal_lengths_need_no_padding() -> None:
    buckets = make_buckets(split_of([7] * 50, [3] * 50), 4, 7, 4)
    assert buckets.shapes == ((4, 7, 4),)
    assert buckets.padding_share() == 0


def test_pairs_longer_than_the_contexts_are_counted_and_the_first_named() -> None:
    split = split_of([5, 9, 3, 12], [4, 5, 9, 5])
    make_buckets(split, 2, 12, 10)
    with pytest.raises(
        UserError,
        match=r"1 of 4 pairs .* pair 3: its source takes 3 .* 12, .* 10 of .* 9\. .*length 8",
    ):
        make_buckets(split, 2, 12, 9)
    with pytest.raises(UserError, match=r"2 of 4 pairs .* pair 3: "):
        make_buckets(split, 2, 11, 9)
    with pytest.raises(
        UserError, match=r"1 of 4 .* pair 4: .* 12 positions .* 11, .* 6 .*length 9"
    ):
        make_buckets(split, 2, 11, 10)


def test_a_batch_larger_than_the_split_is_refused() -> None:
    buckets = make_buckets(split_of([5] * 3, [4] * 3), 4, 9, 9)
    with pytest.raises(UserError, match="has 3 pairs, but a batch takes 4"):
        batch(buckets, seed=0, step=0)
    with pytest.raises(UserError, match="seed must lie in"):
        batch(make_buckets(split_of([5], [4]), 1, 9, 9), seed=-1, step=0)

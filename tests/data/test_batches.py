"""Batches depend only on (seed, step), and leave nothing out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.data.batches import batch, eval_windows
from jaxgpt.errors import UserError


def starts(batch_: np.ndarray) -> np.ndarray:
    """Where in np.arange each row was taken from."""
    np.testing.assert_array_equal(
        batch_ - batch_[:, :1], np.tile(np.arange(batch_.shape[1]), (len(batch_), 1))
    )
    return batch_[:, 0]


@settings(deadline=None)
@given(
    length=st.integers(8, 300),
    context=st.integers(1, 4),
    size=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_epoch_has_each_window_once(length: int, context: int, size: int, seed: int) -> None:
    tokens = np.arange(length, dtype=np.uint16)
    windows = (length - context) // context
    steps = -(-3 * windows // size)
    rows = [
        batch(tokens, seed=seed, step=s, batch_size=size, context_length=context)
        for s in range(steps)
    ]
    first = starts(np.concatenate(rows))
    for epoch in range(3):
        offset = first[epoch * windows : (epoch + 1) * windows].min()
        assert 0 <= offset < context
        expected = offset + context * np.arange(windows)
        np.testing.assert_array_equal(
            np.sort(first[epoch * windows : (epoch + 1) * windows]), expected
        )


@pytest.mark.parametrize("windows", [4000, 12_000])
def test_long_splits_are_shuffled_differently_in_each_epoch(windows: int) -> None:
    tokens = np.arange(2 * (windows + 1))
    size = 1000
    steps = -(-2 * windows // size)
    first = starts(
        np.concatenate(
            [batch(tokens, seed=1, step=s, batch_size=size, context_length=2) for s in range(steps)]
        )
    )
    orders = first[:windows] // 2, first[windows : 2 * windows] // 2
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(windows))
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.1
    assert (orders[0] == orders[1]).mean() < 0.01
    assert abs(np.corrcoef(*orders)[0, 1]) < 0.1


@settings(deadline=None)
@given(
    step=st.integers(0, 10**6), seed=st.integers(0, 9), hosts=st.sampled_from([1, 2, 3, 4, 6, 12])
)
def test_the_order_does_not_depend_on_the_hosts(step: int, seed: int, hosts: int) -> None:
    tokens = np.arange(100, dtype=np.uint8)
    whole = batch(tokens, seed=seed, step=step, batch_size=12, context_length=5)
    share = 12 // hosts
    parts = [
        batch(
            tokens,
            seed=seed,
            step=step,
            batch_size=12,
            context_length=5,
            rows=slice(host * share, (host + 1) * share),
        )
        for host in range(hosts)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert whole.dtype == np.int32
    assert whole.shape == (12, 6)


@pytest.mark.parametrize("length", [1000, 40_000])
def test_a_batch_does_not_depend_on_earlier_ones(length: int) -> None:
    tokens = np.arange(length)
    run = [batch(tokens, seed=3, step=s, batch_size=7, context_length=5) for s in range(60)]
    for step in (59, 0, 31):
        np.testing.assert_array_equal(
            batch(tokens, seed=3, step=step, batch_size=7, context_length=5), run[step]
        )


def test_the_order_is_the_same_on_every_machine() -> None:
    """If this fails after an upgrade, older runs resume with other data: say so in the changelog."""
    short = batch(np.arange(1000), seed=1337, step=2, batch_size=6, context_length=8)
    assert starts(short).tolist() == [380, 316, 716, 348, 908, 300]
    long = batch(np.arange(10**6), seed=1337, step=50_000, batch_size=6, context_length=8)
    assert starts(long).tolist() == [887108, 322140, 791796, 831228, 57132, 927420]


def test_seeds_and_epochs_differ() -> None:
    tokens = np.arange(10_000)
    seen = {
        tuple(starts(batch(tokens, seed=seed, step=step, batch_size=8, context_length=10)))
        for seed in range(10)
        for step in range(10)
    }
    assert len(seen) == 100


def test_each_epoch_cuts_the_text_at_different_places() -> None:
    tokens = np.arange(1000)
    offsets = [
        batch(tokens, seed=0, step=s, batch_size=90, context_length=11).min() % 11
        for s in range(40)
    ]
    assert len(set(offsets)) == 11


@pytest.mark.parametrize(
    ("length", "enough"), [(0, False), (1, False), (15, False), (16, True), (17, True)]
)
def test_a_text_too_short_for_a_batch_is_refused(length: int, enough: bool) -> None:
    tokens = np.arange(length)
    if enough:
        assert batch(tokens, seed=0, step=0, batch_size=3, context_length=8).shape == (3, 9)
    else:
        with pytest.raises(UserError, match=f"{length} tokens.* 8 .*16"):
            batch(tokens, seed=0, step=0, batch_size=3, context_length=8)


@pytest.mark.parametrize("seed", [-1, 1 << 32])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(UserError, match=str(seed)):
        batch(np.arange(100), seed=seed, step=0, batch_size=3, context_length=8)


@settings(deadline=None)
@given(length=st.integers(2, 200), size=st.integers(1, 9), context=st.integers(1, 20))
def test_evaluation_has_every_target_once(length: int, size: int, context: int) -> None:
    tokens = np.arange(1, length + 1, dtype=np.uint16)
    targets = []
    for ids, mask in eval_windows(tokens, batch_size=size, context_length=context):
        assert (ids.shape, ids.dtype, mask.shape, mask.dtype) == (
            (size, context + 1),
            np.int32,
            (size, context),
            bool,
        )
        assert mask.any()
        np.testing.assert_array_equal(ids[:, 1:][mask], ids[:, :-1][mask] + 1)
        assert not ids[:, 1:][~mask].any()
        targets += ids[:, 1:][mask].tolist()
    assert targets == list(range(2, length + 1))


@pytest.mark.parametrize("length", [0, 1])
def test_a_split_without_a_target_is_refused(length: int) -> None:
    with pytest.raises(UserError, match=f"{length} tokens"):
        next(eval_windows(np.arange(length), batch_size=2, context_length=4))

"""Batches of windows: those of a training step, a function of (seed, step), and of an evaluation.

grain could shuffle without storing the order, but for a text with few windows it may try 2**16
indices to find one. Sorting the ten million windows of ten billion tokens takes 160 MB and about
ten seconds per epoch.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from jaxgpt.errors import require


def batch(
    tokens: np.ndarray,
    *,
    seed: int,
    step: int,
    batch_size: int,
    context_length: int,
    rows: slice | np.ndarray = slice(None),
) -> np.ndarray:
    """The windows of `step`, (rows, T+1) int32: inputs are [:, :-1], targets [:, 1:].

    Row r is window step * batch_size + r of an endless sequence of epochs, each with every window
    once. There is no state, and each host may ask for any `rows`.
    """
    windows = (len(tokens) - context_length) // context_length
    require(
        windows > 0,
        f"The training split has {len(tokens)} tokens, but context_length {context_length} needs "
        f"at least {2 * context_length}: give more text, or set a shorter context_length.",
    )
    require(0 <= seed < 1 << 32, f"seed must lie in [0, 2**32), but is {seed}.")
    starts = []
    for position in (step * batch_size + np.arange(batch_size)[rows]).tolist():
        epoch, index = divmod(position, windows)
        window = shuffled(windows, seed, epoch)[index]
        starts.append(_offset(seed, epoch, context_length) + context_length * window)
    return np.lib.stride_tricks.sliding_window_view(tokens, context_length + 1)[starts].astype(
        np.int32
    )


@lru_cache(maxsize=16)
def _offset(seed: int, epoch: int, context_length: int) -> int:
    """The start of the first window, which differs by epoch so that window boundaries move."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]) % context_length


@lru_cache(maxsize=16)
def shuffled(count: int, *entropy: int) -> np.ndarray:
    """The numbers below `count`, shuffled in an order that does not depend on numpy's version.

    The order is a function of `count` and `entropy`, such as a seed and an epoch.
    """
    keys = np.random.SeedSequence([*entropy, count]).generate_state(count, np.uint64)
    return np.argsort(keys, kind="stable")


def eval_windows(
    tokens: np.ndarray, *, batch_size: int, context_length: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Consecutive windows over a whole split, (B, T+1) int32, and their masks, (B, T) bool.

    Every target occurs once; the padding of the last window and the last batch is 0 and masked out.
    """
    last = len(tokens) - 1  # the position of the last target
    require(
        last > 0,
        f"The validation split has {len(tokens)} tokens, but needs at least 2, so that there is "
        "something to predict.",
    )
    span = batch_size * context_length
    for start in range(0, last, span):
        firsts = start + context_length * np.arange(batch_size)
        places = firsts[:, None] + np.arange(context_length + 1)
        ids = np.where(places <= last, tokens[np.minimum(places, last)], 0).astype(np.int32)
        yield ids, places[:, 1:] <= last

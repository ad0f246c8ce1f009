"""Windows of a text for measuring losses, and the losses of n-gram models of that text."""

import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.model import flops

SHORTEST, LONGEST = 64, 256  # tokens of a window, if the context and the text allow
FEWEST = 8  # windows
MOST = 2**14  # tokens of all windows together
OPERATIONS = 3e11  # for one combination; takes some seconds on two cores


def windows_of(ids: np.ndarray, config: ModelConfig, path: object) -> np.ndarray:
    """Windows (B, T + 1) of ids, spread evenly over the text.

    In a short text the windows are short: more of them give a better estimate of the noise.
    """
    least = max(config.context_length, FEWEST) + 1
    if ids.ndim != 1 or len(ids) < least:
        raise UserError(
            f"{path} has a context of {config.context_length} tokens, so there should be {least} "
            f"of them in a row or more, but there are {ids.size}."
        )
    affordable = min(MOST, int(OPERATIONS / (flops.per_token(config) / 3)))
    length = min(
        config.context_length,
        LONGEST,
        max(SHORTEST, affordable // FEWEST),
        (len(ids) - 1) // FEWEST,
    )
    count = max(FEWEST, min(affordable, len(ids) - 1) // length)
    power = 1 << (count.bit_length() - 1)  # a power of two divides into equal batches
    starts = np.linspace(0, len(ids) - 1 - length, power).astype(int)
    return np.stack([ids[start : start + length + 1] for start in starts]).astype(np.int32)


def unigram_loss(ids: np.ndarray) -> float:
    """The loss of predicting each id by its frequency, in nats."""
    shares = np.unique(ids, return_counts=True)[1] / len(ids)
    return float(-(shares * np.log(shares)).sum())


def bigram_loss(ids: np.ndarray) -> float:
    """The loss of predicting each id from the previous one, by the counts in the rest of the text.

    Where these counts are small, the frequencies of single ids are used (Witten-Bell
    interpolation).
    """
    before, after = ids[:-1], ids[1:]
    size = int(ids.max()) + 1
    pairs, which, counts = np.unique(
        before.astype(np.int64) * size + after, return_inverse=True, return_counts=True
    )
    followers = np.bincount(pairs // size, minlength=size)[before]
    seen_before = np.bincount(before, minlength=size)[before] - 1
    # Leaves this id out of the counts, and adds one to that of every id.
    alone = np.bincount(after, minlength=size)[after] / (len(after) - 1 + size)
    trusted = seen_before / (seen_before + followers)
    pair = (counts[which] - 1) / np.maximum(seen_before, 1)
    return float(-np.log(trusted * pair + (1 - trusted) * alone).mean())

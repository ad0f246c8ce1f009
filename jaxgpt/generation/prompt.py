"""Prompts: lists of ids, checked, cropped to the context and padded to a batch.

The server refuses a prompt that is longer than the context (`serving/app.py`), and lm-eval's texts
are cropped in `lm_eval/model.py`.

Shapes: B rows, S context.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgpt.errors import UserError, require

FEWEST_SLOTS = 64  # a cache with fewer would hardly be faster


class Prompts(NamedTuple):
    """A batch of prompts as the model takes them."""

    tokens_bs: np.ndarray  # padded with 0 on the right
    lengths_b: np.ndarray  # number of tokens of each row
    width: int  # number of positions to prefill

    def slots(self, new: int) -> int:
        """The number of positions to cache while each row gets `new` more tokens.

        Each step reads the whole cache, so it should be small. Powers of two let calls of many
        lengths share one compiled program.
        """
        needed = int(self.lengths_b.max()) + new - 1  # the last new token is not read
        return min(self.tokens_bs.shape[1], max(FEWEST_SLOTS, padded_width(needed)))

    def shared(self) -> int:
        """The length of the prefix that all rows share; the last token of a row never counts."""
        same_s = (self.tokens_bs == self.tokens_bs[0]).all(axis=0)[: self.lengths_b.min() - 1]
        return len(same_s) if same_s.all() else int(same_s.argmin())


def as_rows(prompt: Any, vocab_size: int) -> tuple[list[list[int]], bool]:
    """Normalise `prompt` to a list of rows; also return whether it was a list of rows.

    An empty row becomes the id 0.
    """
    takes = "A prompt is a list of ids, or a list of such lists, but"
    require(
        not isinstance(prompt, str),
        f"{takes} is the text {str(prompt)[:60]!r}: "
        "jaxgpt.load_tokenizer(DIR).encode(text) gives its ids.",
    )
    try:
        parts = list(prompt)
        several = any(np.ndim(part) > 0 for part in parts)
        rows = [
            np.asarray(row) if len(row) else np.zeros(1, np.int64)
            for row in (parts if several else [parts])
        ]
    except (TypeError, ValueError):
        raise UserError(f"{takes} is {str(prompt)[:60]}.") from None
    for row in rows:
        require(row.ndim == 1, f"{takes} has a row of shape {row.shape}.")
        wrong = not np.issubdtype(row.dtype, np.integer) or ((row < 0) | (row >= vocab_size)).any()
        require(
            not wrong,
            f"A prompt must be ids from 0 to {vocab_size - 1}, but is {row.tolist()[:20]}.",
        )
    return [row.tolist() for row in rows], several


def cropping_note(length: int, context: int) -> str:
    """The note that tells the user how much of a prompt the model sees; "" if all of it."""
    if length <= context:
        return ""
    return f"The prompt has {length} tokens; the model sees the last {context} of them."


def crop_and_pad(rows: Sequence[Sequence[int]], context: int) -> Prompts:
    """The batch of `rows`; a prompt longer than `context` loses its beginning."""
    cropped = [row[-context:] for row in rows]
    tokens_bs = np.zeros((len(rows), context), np.int32)
    lengths_b = np.array([len(row) for row in cropped], np.int32)
    for i, row in enumerate(cropped):
        tokens_bs[i, : len(row)] = row
    return Prompts(tokens_bs, lengths_b, min(context, padded_width(int(lengths_b.max()))))


def padded_width(longest: int) -> int:
    """The smallest power of two that is at least `longest`.

    Rows of many lengths thereby share one compiled program.
    """
    return 1 << (longest - 1).bit_length()

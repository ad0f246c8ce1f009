"""Log-probabilities of given tokens, in batches of few shapes.

Shapes: B rows, S positions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.generation.prompt import padded_width
from jaxgpt.model import GPT, exactly
from jaxgpt.model.precision import sum_dtype


class Scored(NamedTuple):
    """The score of the last tokens of a text."""

    logprob: float  # the sum over these tokens
    greedy: bool  # whether each of them is the likeliest token


class Scorer:
    """Scores texts by `model`, `rows` at a time."""

    def __init__(self, model: GPT, rows: int):
        self.model, self.rows = model, rows
        self.context = model.config.context_length

    def score(self, texts: Sequence[tuple[Sequence[int], int]]) -> list[Scored]:
        """The scores of `texts`, pairs of ids and the number of last ids to score, in order.

        A text has at most one id more than the context. Texts of similar length are scored
        together.
        """
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i][0]))
        scores: dict[int, Scored] = {}
        for begin in range(0, len(order), self.rows):
            batch = order[begin : begin + self.rows]
            scores |= zip(batch, self._batch([texts[i] for i in batch]), strict=True)
        return [scores[i] for i in range(len(texts))]

    def _batch(self, texts: Sequence[tuple[Sequence[int], int]]) -> list[Scored]:
        longest = max(len(ids) for ids, _ in texts)
        width = min(self.context, padded_width(longest - 1))
        # Padding on the right changes nothing on its left, as the model is causal.
        tokens_bs, targets_bs = np.zeros((2, self.rows, width), np.int32)
        for row, (ids, _) in enumerate(texts):
            tokens_bs[row, : len(ids) - 1], targets_bs[row, : len(ids) - 1] = ids[:-1], ids[1:]
        with exactly(self.model.dtype):
            logp_bs, greedy_bs = map(np.asarray, _targets(self.model, tokens_bs, targets_bs))
        parts = [slice(len(ids) - 1 - count, len(ids) - 1) for ids, count in texts]
        return [
            Scored(float(logp_bs[row, part].sum()), bool(greedy_bs[row, part].all()))
            for row, part in enumerate(parts)
        ]


@jax.jit
def _targets(
    model: GPT, tokens_bs: jax.Array, targets_bs: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The log-probability of each target, and whether it is the likeliest id."""
    logits_bsv = model.logits(tokens_bs)
    logp_bsv = jax.nn.log_softmax(logits_bsv.astype(sum_dtype(logits_bsv)))
    logp_bs = jnp.take_along_axis(logp_bsv, targets_bs[..., None], axis=-1)[..., 0]
    return logp_bs, logits_bsv.argmax(axis=-1) == targets_bs

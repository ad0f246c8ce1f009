"""Beam search: the most likely of several texts that are continued together.

The beams of a row are live or ended, and their number stays the same: one that ends is set aside
with its score, its log-probability divided by its length to the power of the length penalty. With
one beam this is greedy generation.

Shapes: B rows, N new tokens, V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxgpt.devices.peers import make_groups, share
from jaxgpt.errors import UserError, require, whole
from jaxgpt.generation import beam_program, programs
from jaxgpt.generation.beam_program import Rules, Size, Texts
from jaxgpt.generation.encoded import prepare_memory
from jaxgpt.generation.options import SampleOptions
from jaxgpt.generation.programs import Conditions
from jaxgpt.generation.prompt import as_rows, crop_and_pad, padded_width
from jaxgpt.generation.sampling import for_rows
from jaxgpt.generation.weights import Weights
from jaxgpt.model import GPT, exactly


@dataclass(frozen=True)
class Beams:
    """The number of beams, and the power of the length that divides a log-probability."""

    count: int = 4
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", whole("beams", self.count))
        require(self.count > 0, f"beams must be positive, but is {self.count}.")
        require(
            math.isfinite(self.length_penalty),
            f"length_penalty must be a number, but is {self.length_penalty}.",
        )


class BeamText(NamedTuple):
    """The text of one row: its new ids, with the stop id if it ends with one."""

    ids: list[int]
    logprob: float  # of all ids together
    score: float  # by which it was chosen


def search(
    model: GPT,
    prompt: Any,
    options: SampleOptions,
    beams: Beams,
    memory: ArrayLike | None = None,
    memory_mask: ArrayLike | None = None,
) -> list[BeamText]:
    """The text with the best score for each prompt; `memory` is as in `generate`.

    A text ends at one of `options.stop_ids`, after `options.max_new_tokens`, or where the model no
    longer sees all of it. What `options` say about random choices is refused.
    """
    _require_no_chance(options)
    vocab_size, context = model.config.vocab_size, options.context_of(model.config)
    sampling = options.sampling(vocab_size)
    rows = as_rows(prompt, vocab_size)[0]
    prompts = crop_and_pad(rows, context)
    limits_b = np.minimum(options.max_new_tokens, context + 1 - prompts.lengths_b)
    texts = Texts(prompts.tokens_bs, prompts.lengths_b, limits_b.astype(np.int32))
    stops_v = np.isin(np.arange(vocab_size), list(options.stop_ids))
    read = prepare_memory(model, len(rows), memory, memory_mask)
    with exactly(model.dtype):
        weights = Weights.prepare(model, model.dtype)
        mesh, _ = make_groups(weights, *prompts.tokens_bs.shape)
        if mesh:
            weights = share(weights, mesh)
        cross = None if read is None else programs.remember(weights, read, mesh)
        rules = Rules(np.float64(beams.length_penalty), stops_v)
        size = Size(prompts.width, beams.count, padded_width(int(limits_b.max())))
        conditions = Conditions(for_rows([sampling], [len(rows)]), cross)
        best, finite_b = beam_program.run(weights, texts, conditions, rules, size, mesh)
        best, finite_b = jax.tree.map(np.asarray, (best, finite_b))
    if not finite_b.all():
        raise UserError("The model's logits are not finite numbers: its weights are damaged.")
    return [
        BeamText(ids_n[:length].tolist(), float(total), float(score))
        for ids_n, length, total, score in zip(*best, strict=True)
    ]


def _require_no_chance(options: SampleOptions) -> None:
    chance = {"temperature": 0, "top_k": 0, "top_p": 1, "min_p": 0, "samples": 1}
    for name, value in chance.items():
        require(
            getattr(options, name) == value,
            f"Beam search takes the most likely text, so {name} must be {value} with beams, but is "
            f"{getattr(options, name)}.",
        )

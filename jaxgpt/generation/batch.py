"""Rows that are generated together: prompts with their options, from one caller or several.

Shapes: B rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxgpt.errors import require
from jaxgpt.generation.options import SampleOptions
from jaxgpt.generation.prompt import Prompts, crop_and_pad
from jaxgpt.generation.sampling import Sampling, for_rows
from jaxgpt.model_config import ModelConfig

SHARED = ("stop_ids", "on_full", "context")  # options that are the same in all of a batch


class Request(NamedTuple):
    """Prompts that are continued with the same options."""

    prompts: Sequence[Sequence[int]]
    options: SampleOptions

    @property
    def rows(self) -> int:
        """The number of texts."""
        return len(self.prompts) * self.options.samples


class Batch(NamedTuple):
    """The rows of several requests, in their order, and what each is generated with."""

    prompts: Prompts
    limits_b: np.ndarray  # the most new tokens
    visible_b: np.ndarray  # new tokens for which the model sees the whole text
    seeds_b: np.ndarray
    numbers_b: np.ndarray  # number of the row within its request, which also seeds it
    sampling: Sampling
    shared: SampleOptions  # only its options in SHARED are used


def make_batch(requests: Sequence[Request], config: ModelConfig) -> Batch:
    """The batch of `requests` to a model of `config`."""
    options = [request.options for request in requests]
    shared, counts = options[0], [request.rows for request in requests]
    for name in SHARED:
        require(
            all(getattr(one, name) == getattr(shared, name) for one in options),
            f"Requests that are generated together must have the same {name}.",
        )
    context = shared.context_of(config)
    rows = [
        prompt
        for request in requests
        for prompt in request.prompts
        for _ in range(request.options.samples)
    ]
    prompts = crop_and_pad(rows, context)
    visible_b = context + 1 - prompts.lengths_b
    limits_b = np.repeat([one.max_new_tokens for one in options], counts)
    if shared.on_full == "stop":
        limits_b = np.minimum(limits_b, visible_b)
    return Batch(
        prompts,
        limits_b,
        visible_b,
        seeds_b=np.repeat(np.array([one.seed for one in options], np.uint32), counts),
        numbers_b=np.concatenate([np.arange(count, dtype=np.int32) for count in counts]),
        sampling=for_rows([one.sampling(config.vocab_size) for one in options], counts),
        shared=shared,
    )

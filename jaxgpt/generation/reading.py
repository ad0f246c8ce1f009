"""Reads prompts into a cache, in pieces; a prefix that all of them share is read only once.

Shapes: B rows, S context.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxgpt.generation import programs
from jaxgpt.generation.prompt import Prompts, padded_width
from jaxgpt.generation.weights import Weights
from jaxgpt.model.cache import Cache, CrossCache
from jaxgpt.model.extend import Text

PIECE_POSITIONS = 512  # the most in one piece


@dataclass(frozen=True)
class Reader:
    """Reads prompts into caches for `slots` positions, on the devices of `mesh`."""

    weights: Weights
    cross: CrossCache | None
    slots: int
    mesh: Mesh | None

    def read(self, prompts: Prompts) -> Cache:
        """A cache of the prompts without their last tokens, which the first step takes."""
        tokens_bs, lengths_b = prompts.tokens_bs, prompts.lengths_b - 1
        rows = len(tokens_bs)
        shared, kv_cache = prompts.shared(), None
        if (
            self.cross is None and shared * (rows - 1) >= PIECE_POSITIONS
        ):  # else it would hardly be faster
            single = Reader(self.weights, None, self.slots, None)
            kv_cache = single.extended(None, tokens_bs[:1], 0, np.array([shared], np.int32))
            assert kv_cache is not None
            kv_cache = programs.repeat_rows(kv_cache, rows, self.mesh)
        else:
            shared = 0
        kv_cache = self.extended(kv_cache, tokens_bs, shared, lengths_b)
        return kv_cache or programs.empty(self.weights, rows, self.slots, self.mesh)

    def extended(
        self, kv_cache: Cache | None, tokens_bs: np.ndarray, start: int, lengths_b: np.ndarray
    ) -> Cache | None:
        """The cache with the tokens from `start` to `lengths_b`; None if nothing has been read."""
        longest = int(lengths_b.max())
        for first in range(start, longest, PIECE_POSITIONS):
            width = min(PIECE_POSITIONS, padded_width(longest - first))
            parts = tokens_bs[:, first : first + width], np.int32(first), lengths_b
            text = Text(*map(jnp.asarray, parts))
            if kv_cache is None:
                kv_cache = programs.read(self.weights, text, self.cross, self.slots, self.mesh)
            else:
                kv_cache = programs.read_on(self.weights, kv_cache, text, self.cross, self.mesh)
        return kv_cache

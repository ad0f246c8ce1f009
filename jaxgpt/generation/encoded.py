"""Memories for a model with cross-attention, checked, as generation takes them.

Shapes: B rows, S time of the memory, D model width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxgpt.model import GPT, exactly
from jaxgpt.model.checks import check_memory


class Encoded(NamedTuple):
    """The memory of each row, and which of its positions are real."""

    memory_bsd: jax.Array
    mask_bs: jax.Array

    def repeated(self, times: int) -> "Encoded":
        """The same with each row `times` times."""
        if times == 1:
            return self
        return Encoded(*(jnp.repeat(part, times, axis=0) for part in self))


def prepare_memory(
    model: GPT, rows: int, memory: ArrayLike | None, mask: ArrayLike | None
) -> Encoded | None:
    """The `memory` (B, S, D) of `rows` prompts, all of it real unless a `mask` (B, S) is given.

    A model without cross-attention takes no memory, and the result is None.
    """
    check_memory(np.zeros((rows, 1)), memory, mask, model.config)
    if memory is None:
        return None
    with exactly(model.dtype):
        memory_bsd = jnp.asarray(memory, model.dtype)
        everything = np.ones(memory_bsd.shape[:2], bool)
        return Encoded(memory_bsd, jnp.asarray(everything if mask is None else mask))

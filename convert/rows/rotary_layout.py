"""The order of the elements of a head whose pairs rotate: in a file, and in the model.

The model pairs elements half the rotated width apart. A file that pairs neighbours, or rotates the
other way, holds the same function with the rows of its queries and keys in another order.
"""

import numpy as np

from .axes import View
from .labels import LABELS, Place

ROTATED = ("query", "key")
ATTENTION = "blocks/attn/"  # cross-attention rotates nothing
NORMS = ("blocks/attn/q_norm/", "blocks/attn/k_norm/")


def order(layout: str, backward: bool, rotated: int, head_dim: int) -> np.ndarray:
    """The element of a file's head for each element of the model's head.

    The first `rotated` of `head_dim` elements rotate, in pairs of the given `layout`. If they
    rotate `backward`, by minus the angle, the two elements of each pair are exchanged, which makes
    it the usual rotation.
    """
    pairs = np.arange(rotated).reshape((-1, 2) if layout == "interleaved" else (2, -1))
    halves = pairs.T if layout == "interleaved" else pairs
    halves = halves[::-1] if backward else halves
    return np.concatenate([halves.ravel(), np.arange(rotated, head_dim)])


def is_rotated(flax: View, place: Place) -> bool:
    """Whether the part of `flax` at `place` is of queries or keys, or of their norms."""
    label = place.get("qkv")
    if label is not None:
        return flax.name.startswith(ATTENTION) and list(LABELS["qkv"])[label] in ROTATED
    return flax.name.startswith(NORMS)

"""The forms in which a file may store a matrix, other than (out, in), and the way back to each.

A matrix may be turned, (in, out); it may have further dimensions of length 1, as the kernel of a
convolution of width 1 has; and one of its sides may be several dimensions, such as one for the
heads and one for the elements of each.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..names.parts import NORM_WORDS
from ..names.tensor_names import is_mask
from ..rows.axes import Dims
from .attention_words import holds_parts

PARTS = (2, 3)  # of keys and values, or with queries
NORM_LEAVES = {*re.findall(r"\w+", NORM_WORDS)}


@dataclass(frozen=True)
class Form:
    """For each dimension of the usual tensor, the stored ones that make it up, each used once."""

    lengths: tuple[int, ...]  # of the dimensions in the file
    sides: tuple[tuple[int, ...], ...]

    @property
    def with_heads_last(self) -> "Form":
        """The form in which the elements of each head precede the heads."""
        sides = ((*s[:-2], s[-1], s[-2]) if len(s) > 1 else s for s in self.sides)
        return Form(self.lengths, tuple(sides))

    def shape(self, lengths: Sequence[int]) -> tuple[int, ...]:
        """The shape of the usual tensor for one with these `lengths` in the file."""
        return tuple(math.prod(lengths[i] for i in side) for side in self.sides)

    def usual(self, array: np.ndarray) -> np.ndarray:
        """The usual tensor of the `array` in the file."""
        order = [i for side in self.sides for i in side]
        rest = [i for i in range(array.ndim) if i not in order]
        return array.transpose(*order, *rest).reshape(self.shape(array.shape))

    def dims(self, usual: Dims) -> Dims:
        """The axes of each dimension in the file, for the axes of the `usual` tensor."""
        own: list[tuple[str, ...]] = [()] * len(self.lengths)
        for side, axes in zip(self.sides, usual, strict=True):
            parts: list[tuple[str, ...]] = [(axis,) for axis in axes]
            if axes[:1] == ("q",):  # of queries alone, which take no dimension
                parts = [axes[:2], *parts[2:]]
            if len(side) == 1:
                parts = [axes]
            for i, part in zip(side, parts, strict=False):
                own[i] = part
        return tuple(own)


def plain(shape: tuple[int, ...]) -> Form:
    """The form of a matrix (in, out)."""
    return Form(shape, ((1,), (0,)))


def widths_of(forms: Iterable[Form]) -> dict[str, int]:
    """The width of a head, where forms show it and do not contradict one another."""
    widths = {form.lengths[side[-1]] for form in forms for side in form.sides if len(side) > 1}
    return {"k": widths.pop()} if len(widths) == 1 else {}


def form_of(name: str, shape: tuple[int, ...], width: int) -> Form | None:
    """The form of the tensor `name`, of three or more dimensions or the bias of one.

    `width` is that of the model. None if the tensor has the usual form, or none that is known.
    """
    path, _, leaf = name.rpartition(".")
    long = [i for i, length in enumerate(shape) if length > 1]
    of_norm = len(long) == 1 and leaf in NORM_LEAVES
    if leaf not in ("weight", "bias") and not of_norm:
        return None
    if is_mask(name, shape) or len(shape) < 2:
        return None
    if leaf == "bias" or len(long) == 1:
        return Form(shape, (_in_order(shape, long),))
    if len(shape) < 3:
        return None
    if shape[2:] == (1,) * (len(shape) - 2):
        return Form(shape, ((0,), (1,)))
    if "{layer" not in name and long[-1:] == [len(shape) - 1]:
        return None  # a table of positions
    inputs = [i for i in long if shape[i] == width]
    if len(inputs) != 1:
        return None
    heads = _in_order(shape, [i for i in long if i != inputs[0]])
    sides = (heads, (inputs[0],))
    return Form(shape, sides if holds_parts(path.rpartition(".")[2]) else sides[::-1])


def _in_order(shape: tuple[int, ...], dims: list[int]) -> tuple[int, ...]:
    """`dims`, with that of queries, keys and values first if there is one before each head's."""
    parts = [i for i in dims[:-1] if shape[i] in PARTS] if len(dims) > 2 else []
    return tuple(sorted(dims, key=lambda i: i not in parts))

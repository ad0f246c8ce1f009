"""Numbers in names that count several modules for each member of an axis.

`{layer_x2}` in a name stands for 2 * layer and `{layer_x2p1}` for 2 * layer + 1: the modules of a
list in which each block has two.
"""

import functools
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Stride:
    """The numbers `step * index + start` of the members of `axis`."""

    axis: str
    step: int
    start: int

    def number(self, index: int) -> int:
        """The number in the name of the member `index`."""
        return self.step * index + self.start

    def member(self, number: int) -> int | None:
        """The member with `number` in its name; None if it is that of another module."""
        index, rest = divmod(number - self.start, self.step)
        return index if rest == 0 and index >= 0 else None


@functools.cache
def stride(word: str) -> Stride:
    """The axis in `word`, the text between braces, and how it is numbered."""
    match = re.fullmatch(r"(\w+?)_x(\d+)(?:p(\d+))?", word)
    return Stride(match[1], int(match[2]), int(match[3] or 0)) if match else Stride(word, 1, 0)

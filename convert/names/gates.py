"""Tells which matrix of a gated MLP is the gate, by the words and numbers in names."""

import re

from .roles import FIRST, SECOND
from .tensor_names import count_words, words_of

GATE, GATED = "gate |gates |gating|g |wg ", "up |val|u |wu "
VALUE_FIRST = (
    "up gate"  # the halves of a matrix of which no word tells, as torch's own glu has them
)


def is_told(gate: str, gated: str) -> bool:
    """Whether words tell the matrix `gate` from `gated`; otherwise numbers may."""
    return _leaning(gate) != _leaning(gated)


def gate_ranks(gate: str, gated: str) -> tuple[int, int]:
    """How much each of two matrices of equal shape looks like the gate, by words or else numbers.

    Of numbered matrices, the first one does.
    """
    if is_told(gate, gated):
        return _leaning(gate), _leaning(gated)
    one, two = ([int(n) for n in re.findall(r"\d+", name)] for name in (gate, gated))
    return (one < two) - (one > two), 0


def down_ranks(gate: str, gated: str, down: str) -> list[tuple[int, int]]:
    """The ranks, by words, of the two matrices that lead into an MLP, each with that of `down`."""
    last, *others = (
        count_words(name, FIRST) - count_words(name, SECOND) for name in (down, gate, gated)
    )
    return [(other, last) for other in others]


def halves(name: str) -> str:
    """The labels of the halves of a matrix that holds a gate, in order; "" if no word tells."""
    text = words_of(name.removesuffix(".weight").rpartition(".")[2])
    places = [re.search(f" (?:{beginnings})", text) for beginnings in (GATE, GATED)]
    gate, gated = (place.start() if place else -1 for place in places)
    if min(gate, gated) < 0:
        return ""
    return "gate up" if gate < gated else "up gate"


def _leaning(name: str) -> int:
    return count_words(name, GATE) - count_words(name, GATED)

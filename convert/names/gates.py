"""Tells which matrix of a gated MLP is the gate, by the words and numbers in names."""

import re

from .roles import FIRST, SECOND
from .tensor_names import count_words, words_of

GATE, GATED = "gate |gates |gating|g |wg ", "up |val|u |wu "
# The halves of a fused matrix whose name does not show their order, as in torch's own glu.
VALUE_FIRST = "up gate"


def words_show_gate(gate: str, gated: str) -> bool:
    """Whether words in the two names show which is the gate; otherwise numbers may."""
    return _leaning(gate) != _leaning(gated)


def gate_ranks(gate: str, gated: str) -> tuple[int, int]:
    """Ranks of two matrices of equal shape: the higher is more likely the gate.

    Words decide. Without any, the matrix with the lower number ranks higher.
    """
    if words_show_gate(gate, gated):
        return _leaning(gate), _leaning(gated)
    one, two = ([int(n) for n in re.findall(r"\d+", name)] for name in (gate, gated))
    return (one < two) - (one > two), 0


def down_ranks(gate: str, gated: str, down: str) -> list[tuple[int, int]]:
    """Pairs of ranks by words: of each matrix that an MLP begins with, and of `down`."""
    last, *others = (
        count_words(name, FIRST) - count_words(name, SECOND) for name in (down, gate, gated)
    )
    return [(other, last) for other in others]


def halves(name: str) -> str:
    """The labels of the halves of a fused gate matrix, in order; "" if its name does not show
    them."""
    text = words_of(name.removesuffix(".weight").rpartition(".")[2])
    places = [re.search(f" (?:{beginnings})", text) for beginnings in (GATE, GATED)]
    gate, gated = (place.start() if place else -1 for place in places)
    if min(gate, gated) < 0:
        return ""
    return "gate up" if gate < gated else "up gate"


def _leaning(name: str) -> int:
    return count_words(name, GATE) - count_words(name, GATED)

"""Identifies the matrices of attention by their words, or else proposes every possibility."""

from collections.abc import Iterator

from ..names import modern_parts, parts
from ..names.gates import gate_ranks, halves, words_show_gate
from .units import HEAD, WAYS, Unit, down_of, label_of, orders

# The usual words, as the families of encoder-decoders have them.
USUAL = {
    "query": "q_proj", "key": "k_proj", "value": "v_proj", "key_value": "kv_proj", "qkv": "qkv",
    "out": "out_proj",
}  # fmt: skip
IN_TORCH = "in_proj_weight"  # the name of a parameter of torch's own attention
KNOWN_GATES = [{*words.split()} for words in (*modern_parts.NAMED, *modern_parts.NUMBERED)]
UP, DOWN = {*parts.UP.split()}, {*parts.DOWN.split()}
SHAPES, WORDS = "shapes", "words"  # the evidence for which matrix of an MLP comes first
NUMBERED = "linears.0 linears.1 linears.2 linears.3"  # queries, keys, values, output


def roles(unit: Unit, width: int) -> list[dict[str, str]]:
    """The possible readings of attention: each maps the words of the matrices to usual names.

    There is one if the words decide, otherwise one for each possibility, the most likely first.
    """
    words = unit.words
    labels = {word: label_of(word) for word in words}
    if [*words] == NUMBERED.split():
        labels = dict(zip(words, [*WAYS[0], ""], strict=True))
    told = tuple(sorted(label for label in labels.values() if label))
    if told in {tuple(sorted(way)) for way in WAYS} and len(words) - len(told) < 2:
        return [{word: _usual(word, label or "out") for word, label in labels.items()}]
    return list(_guesses(unit, width))


def _usual(word: str, label: str) -> str:
    if word == IN_TORCH:
        return word
    return f"heads.{HEAD}.{USUAL[label]}" if HEAD in word else USUAL[label]


def _guesses(unit: Unit, width: int) -> Iterator[dict[str, str]]:
    """Yield the ways that the shapes of the matrices allow, in the order of the file first."""
    words = unit.words
    if any(HEAD in word for word in words):
        return
    for way, order in orders([*unit.matrices.values()], width):
        named = zip(order, (*way, "out"), strict=False)
        yield {words[i]: _usual(words[i], label) for i, label in named}


def mlp_roles(unit: Unit, width: int, evidence: str) -> list[dict[str, str]]:
    """The possible readings of an MLP's matrices: several if any of them may be the gate."""
    back = down_of([*unit.matrices.values()], width)
    assert back is not None
    last = unit.words[back]
    first = [word for word in unit.words if word != last]
    if len(first) == 1:
        if not _agrees(first[0], last, evidence):
            return []
        plain = unit.matrices[first[0]][0] == unit.matrices[last][1]
        return [{first[0]: "up" if plain else _merged(first[0]), last: "down"}]
    if {*unit.words} in KNOWN_GATES:
        return [{word: word for word in unit.words}]
    both = [{one: "gate", two: "up", last: "down"} for one, two in (first, first[::-1])]
    if not words_show_gate(*first):
        return both
    one, two = gate_ranks(*first)
    return both[:1] if one > two else both[1:]


def _agrees(first: str, last: str, evidence: str) -> bool:
    """Whether words, or else the other `evidence`, agree that an MLP begins with `first`."""
    if first in UP and last in DOWN:
        return True
    if first in DOWN and last in UP:
        return False
    return evidence == SHAPES


def _merged(word: str) -> str:
    """The usual name of a fused matrix of gate and up, by the order that its `word` shows."""
    return {"gate up": "gate_up", "up gate": "up_gate"}.get(halves(word), "wi")

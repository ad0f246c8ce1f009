"""Gives the matrices of attention the usual words, where names and shapes tell what they are."""

import itertools
import re

from ..names import attention_parts, pair_parts, parts
from ..names.tensor_names import Table, joined, words_of

PARTS = {  # words of the matrices of attention that say which they are
    *(word.rpartition("=")[2] for words in attention_parts.QKV_OF_PAIRS for word in words.split()),
    *attention_parts.FUSED.split(), *attention_parts.QUERY.split(),
    *attention_parts.KEY_VALUE.split(),
}  # fmt: skip
OUT = {*parts.OUT.split(), *pair_parts.OUT.split()}
USUAL = {"q": "q_proj", "k": "k_proj", "v": "v_proj"}
# A word with the letter of a part: `q` or `qx`, and `query`, but not `quantity`.
LETTER = re.compile(r"([qkv])[a-z]?|(q)uer\w*|(k)ey\w*|(v)al\w*")


def holds_parts(word: str) -> bool:
    """Whether a matrix called `word` is one of queries, keys or values."""
    letters = [letter for each in words_of(word).split() if (letter := _letter(each))]
    return word in PARTS or (word not in OUT and len(letters) == 1)


def _letter(word: str) -> str:
    """The letter of queries, keys or values that `word` stands for, or ""."""
    match = LETTER.fullmatch(word)
    return match[match.lastindex or 0] if match else ""


def usual_words(inside: Table, width: int) -> dict[str, str]:
    """The usual words for the matrices of attention, by their modules.

    Three modules that differ only in `q`, `k` and `v`, or in words for them, hold queries, keys
    and values. Of two modules, the one with all three has more rows than the other, the output,
    has columns. A single remaining module is the output.
    """
    words = {name.rpartition(".")[0]: shape for name, shape in inside.items()}
    known = {word for word in words if word.replace(".{head}", "").rpartition(".")[2] in PARTS}
    usual: dict[str, str] = {}
    if "" in words:  # in_proj_weight, of torch's own attention
        return {}
    if len(words) == 2 and not known:
        usual = _fused(words, width)
    elif len(known) < 3 <= len(words):
        usual = _three(words)
        known |= usual.keys()
    others = [word for word in words if word not in known]
    if known and len(others) == 1 and others[0] not in OUT and "{head}" not in others[0]:
        usual[others[0]] = "out_proj"
    return usual


def _fused(words: Table, width: int) -> dict[str, str]:
    """The usual words of a matrix for queries, keys and values, and of the output."""
    for one, two in itertools.permutations(words):
        (rows, ins), (back, queries) = words[one], words[two]
        if ins == back == width and rows > queries and one not in OUT and "{head}" not in one:
            return {one: "qkv", **({} if two in OUT else {two: "out_proj"})}
    return {}


def _three(words: Table) -> dict[str, str]:
    """The usual words of the three matrices whose names differ in q, k and v."""
    found = []
    for three in itertools.combinations(words, 3):
        letters = [_letter("".join(words_of(word).split())) for word in joined([*three])[1]]
        if sorted(letters) == sorted(USUAL) and not any("{head}" in word for word in three):
            found.append(dict(zip(three, map(USUAL.__getitem__, letters), strict=True)))
    return found[0] if len(found) == 1 else {}

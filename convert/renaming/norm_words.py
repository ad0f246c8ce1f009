"""Gives the norms of blocks their usual names.

A norm belongs to the module that contains it, or to the module that shares a word with its name
(`pre_mix`, `mixer`); or the norms of a block are numbered.
"""

import re
from collections.abc import Collection, Mapping

from ..names import norm_parts, pair_parts
from ..names.tensor_names import joined, words_of

NORMS = {*f"{pair_parts.NORM1} {pair_parts.NORM2} {pair_parts.THREE}".split()}
PLACED = {word for _, words in norm_parts.BEFORE for word in words.split()} | {
    word for words in norm_parts.AFTER for word in words.split()
}
QK = {*norm_parts.QUERY_NORM.split(), *norm_parts.KEY_NORM.split()}
KINDS = (
    {"attn", "attention", "att", "mha", "sa"},
    {"mlp", "ffn", "ff", "feed", "feedforward", "ffwd"},
)
BEFORE, AFTER = {"pre", "in", "before", "input"}, {"post", "out", "after", "output"}
# By the number of norms, the name of each: that of attention before that of the MLP.
FOUR = (("pre_attn_norm", "post_attn_norm"), ("pre_ffn_norm", "post_ffn_norm"))
LETTERS = "abc"
LAST = re.compile(rf"_?([0-9]|[{LETTERS}]|one|two|three|first|second|third)$", re.IGNORECASE)


def usual_norms(
    norms: list[str], owners: Mapping[str, str], modules: tuple[str, str], ordered: bool
) -> dict[str, str]:
    """The usual names of the `norms` of a decoder's block.

    `owners` are the modules that some norms were in; `modules` those of attention and of the MLP;
    `ordered` is whether the norms have the order of the class.
    """
    if owners:
        of_parts = [[n for n in norms if owners.get(n) == module] for module in modules]
        if len(norms) == 2 and [] in of_parts:  # the other is next to its module
            of_parts[of_parts.index([])] = [norm for norm in norms if norm not in owners]
        known = len(norms) == 2 and all(len(each) == 1 for each in of_parts)
        return {of_parts[0][0]: "norm1", of_parts[1][0]: "norm2"} if known else {}
    if len(norms) == 1:
        return {} if norms[0] in NORMS else {norms[0]: "norm1"}
    if {*norms} <= NORMS | PLACED:
        return {}
    return numbered(norms, ordered) or _by_words(norms, modules)


def numbered(norms: list[str], ordered: bool) -> dict[str, str]:
    """The usual names of `norms` that are numbered or lettered.

    Numbers must not contradict the order of the class, which the norms have if `ordered`. Letters
    count only at the end of a name, and only with that order.
    """
    ends = [LAST.search(word.strip("._")) for word in joined(norms)[1]]
    stems = {end.string[: end.start()] for end in ends if end}
    if len(norms) < 2 or not all(ends) or len(stems) != 1:
        return {}
    ranks = [_rank(end[1].lower()) for end in ends if end]
    order = sorted(range(len(norms)), key=ranks.__getitem__)
    lettered = any(end[1].lower() in LETTERS for end in ends if end)
    bare = any(len(norm.rpartition(".")[2]) == 1 for norm in norms)
    if (lettered and (bare or not ordered)) or (ordered and order != [*range(len(norms))]):
        return {}
    return {norms[i]: f"norm{place + 1}" for place, i in enumerate(order)}


def of_queries_and_keys(norms: list[str]) -> dict[str, str]:
    """The usual names of the two `norms` of attention, whose words begin with q and k."""
    letters = [norm.rpartition(".")[2][:1].lower() for norm in norms]
    known = {*norms} <= QK or sorted(letters) != ["k", "q"]
    pairs = zip(norms, letters, strict=True)
    return {} if known else {norm: f"{letter}_norm" for norm, letter in pairs}


def _by_words(norms: list[str], modules: tuple[str, str]) -> dict[str, str]:
    """The usual names of norms whose names contain a word of the module that they precede or
    follow."""
    own = [
        {*words_of(module).split()} | kinds for module, kinds in zip(modules, KINDS, strict=True)
    ]
    own = [own[0] - own[1], own[1] - own[0]]
    sides = [[norm for norm in norms if _shares(norm, words)] for words in own]
    if {*sides[0]} & {*sides[1]} or (len(norms) == 2 and is_after_some(norms)):
        return {}
    if len(norms) == 2:
        told = [norm for side in sides for norm in side]
        if [*map(len, sides)] in ([1, 0], [0, 1]):
            sides[sides.index([])] = [norm for norm in norms if norm not in told]
        return {sides[0][0]: "norm1", sides[1][0]: "norm2"} if all(sides) else {}
    if [*map(len, sides)] != [2, 2]:
        return {}
    usual: dict[str, str] = {}
    for side, (before, after) in zip(sides, FOUR, strict=True):
        first = [norm for norm in side if BEFORE & {*words_of(norm).split()}]
        last = [norm for norm in side if AFTER & {*words_of(norm).split()}]
        if len(first) != 1 or len(last) != 1 or first == last:
            return {}
        usual |= {first[0]: before, last[0]: after}
    return usual


def is_after_some(norms: list[str]) -> bool:
    """Whether some of `norms`, but not all, have a name such as `after_attention`.

    That may be the norm of attention's output, or the norm before the MLP.
    """
    after = [bool(AFTER & {*words_of(norm).split()}) for norm in norms]
    return any(after) and not all(after)


def _shares(norm: str, words: Collection[str]) -> bool:
    """Whether a word of `norm` is one of `words`, or the beginning of one."""
    own = words_of(norm).split()
    return any(
        one == two or (min(len(one), len(two)) > 2 and (one.startswith(two) or two.startswith(one)))
        for one in own
        for two in words
    )


def _rank(end: str) -> int:
    words = ("one", "two", "three"), ("first", "second", "third"), tuple(LETTERS)
    return (
        next((each.index(end) for each in words if end in each), -1)
        if not end.isdigit()
        else int(end)
    )

"""Finds which norm of a block belongs to which of its units, or else proposes every possibility."""

import itertools
from collections.abc import Sequence

from ..names.tensor_names import words_of
from .norm_words import is_after_some
from .renamed import joined
from .units import Unit, is_within

SELF_WORDS = "self|slf|mask|causal|own|sa "
CROSS_WORDS = "cross|enc|src|source|mem|context|ctx|inter|ca |xatt|kv "
SYNONYMS = {  # words of the norms of each unit of a decoder's block
    "self": {"self", "slf", "sa", "masked", "causal", "attn", "attention", "att", "mha"},
    "cross": {
        "cross", "enc", "encoder", "src", "source", "mem", "memory", "context", "ca", "xattn",
        "attn", "attention", "att", "mha", "inter",
    },
    "mlp": {"mlp", "ff", "ffn", "feed", "forward", "feedforward", "ffwd", "pff", "fc"},
}  # fmt: skip
WORDS_OF_NORMS = {
    "norm", "ln", "layer", "layernorm", "rms", "rmsnorm", "pre", "post", "after", "before",
}  # fmt: skip
LETTERS = tuple("abcd")
ORDERS = (
    LETTERS, ("one", "two", "three"), ("first", "second", "third"), ("i", "ii", "iii"),
)  # fmt: skip
Places = dict[str, Unit]  # norm -> its unit


def places_of(
    norms: list[str], units: Sequence[Unit], roles: Sequence[str], ordered: bool
) -> list[Places]:
    """The possible assignments of `norms` to `units`, which have `roles`; one if it is clear.

    `ordered` is whether the norms have the order of the class.
    """
    found: Places = {}
    for unit in units:
        own = [norm for norm in norms if unit.owner and is_within(norm, unit.owner)]
        if len(own) > 1:
            return []
        found |= dict.fromkeys(own, unit)
    nodes = {norm.rpartition(".")[0] for norm in norms if norm not in found}
    for node in sorted(nodes, key=len, reverse=True):  # the innermost modules first
        inner = [n for n in norms if n not in found and is_within(n, node)]
        free = [u for u in units if u not in found.values() and is_within(u.path, node)]
        if len(inner) == len(free) and (way := _told(inner, free, units, roles, ordered)):
            found |= way
    rest = [norm for norm in norms if norm not in found]
    free = [unit for unit in units if unit not in found.values()]
    if not rest or len(rest) != len(free):
        return [] if rest else [found]
    if way := _told(rest, free, units, roles, ordered):
        return [found | way]
    orders = itertools.permutations(free)
    return [found | dict(zip(rest, order, strict=True)) for order in orders]


def _told(
    norms: list[str],
    free: Sequence[Unit],
    units: Sequence[Unit],
    roles: Sequence[str],
    ordered: bool,
) -> Places:
    """The only assignment of `norms` to the `free` units; empty if there are several."""
    if len(norms) == 1:
        return {norms[0]: free[0]}
    role = dict(zip(map(id, units), roles, strict=True))
    if ranks := in_order(norms, ordered):
        used = sorted(free, key=lambda unit: [*SYNONYMS].index(role[id(unit)]))
        return dict(zip(sorted(norms, key=lambda n: ranks[norms.index(n)]), used, strict=True))
    if is_after_some(norms):
        return {}
    ways = [dict(zip(norms, order, strict=True)) for order in itertools.permutations(free)]
    scores = [sum(_likeness(n, u, role[id(u)]) for n, u in way.items()) for way in ways]
    best = max(scores)
    if scores.count(best) == 1 and best >= len(norms) - 1:
        return ways[scores.index(best)]
    return {}


def in_order(names: list[str], ordered: bool) -> list[int]:
    """The ranks of `names` that differ in numbers, letters or words that count; empty if not.

    They must not contradict the order of the class, which the names have if `ordered`. Letters
    count only at the end of a name, and only with that order.
    """
    _, words = joined(names, "")
    words = [word.strip("._").lower() for word in words]
    if all(word.isdigit() for word in words):
        ranks = [int(word) for word in words]
    else:
        order = next((each for each in ORDERS if {*words} <= {*each}), ())
        ranks = [order.index(word) for word in words] if order else []
        bare = any(len(name.rpartition(".")[2]) == 1 for name in names)
        if order == LETTERS and (bare or not ordered):
            return []
    if ordered and ranks != sorted(ranks):
        return []
    return ranks if len({*ranks}) == len(names) else []


def _likeness(norm: str, unit: Unit, role: str) -> int:
    """The number of words that a norm shares with a unit, or with words of its role."""
    own = {*words_of(norm).split()} - WORDS_OF_NORMS
    theirs = {*words_of(unit.path).split()} | SYNONYMS[role]
    return len(own & theirs)

"""Solves the sizes of axes from the lengths of dimensions."""

import itertools
import math
from collections import Counter, defaultdict

from .axes import Sizes
from .labels import LABELS

Equation = tuple[tuple[str, ...], int]  # the axes of a dimension, and its length
Rest = tuple[frozenset[str], int]  # the axes of unknown size in an equation, and their product
Votes = defaultdict[str, Counter[int]]  # axis -> each size for it, and the equations that imply it


def solve(equations: list[Equation], known: Sizes) -> dict[str, int]:
    """The axis sizes that most equations imply, so that one wrong shape is reported alone.

    `known` may hold `head`, the number of query heads. Heads are not grouped unless shapes show it.

    Example: the matrix `d (qkv head k)` of shape (12, 36), and 3 heads. The equations are d = 12,
    qkv * kv * k = 36, kv * group = 3. The rounds give d = 12; nothing, so that group = 1 is tried,
    with which there are qkv = 3 entries for each head; kv = 3; k = 36 / (3 * 3) = 4.
    """
    sizes = {axis: n for axis, n in known.items() if axis != "head"}
    equations = [*equations, *_of_keys(equations)]
    if "head" in known:  # as often as there are shapes, so that none of them outvotes it
        equations = [*equations, *[(("kv", "group"), known["head"])] * len(equations)]
    while True:
        implied = _implied(equations, sizes)
        if not implied and "group" not in sizes:
            implied = {"group": 1}
        if not implied:
            return sizes
        sizes |= implied


def _of_keys(equations: list[Equation]) -> list[Equation]:
    """The equations of the keys in matrices that hold queries, keys and values.

    Keys are half of what queries leave of such a matrix. The queries are as wide as the input of
    attention's output, or as the model where there is no such matrix.

    Example: `d (qkv head k)` of shape (30, 70) and `(head k) d` of shape (42, 30) are 42 queries,
    14 keys and 14 values, so that kv * k = 14; with kv * group * k = 42, group = 3.
    """
    of_queries = [length for axes, length in equations if {*axes} == {"kv", "group", "k"}]
    if not any("group" in axes for axes, _ in equations):
        of_queries = [length for axes, length in equations if axes == ("d",)]
    if not of_queries:
        return []
    width = Counter(of_queries).most_common(1)[0][0]
    fused = [length for axes, length in equations if {*axes} == {"qkv", "kv", "k"}]
    both = [length - width for length in fused if length > width and (length - width) % 2 == 0]
    queries: list[Equation] = [(("kv", "group", "k"), width) for _ in both]
    return [*queries, *[(("kv", "k"), length // 2) for length in both]]


def _implied(equations: list[Equation], sizes: Sizes) -> dict[str, int]:
    """The sizes that follow from the equations and `sizes`; for each axis, the one most implied."""
    left = rests(equations, sizes)
    votes = _votes(left) or _votes_of_pairs(left)
    return {axis: tally.most_common(1)[0][0] for axis, tally in votes.items()}


def rests(equations: list[Equation], sizes: Sizes) -> Counter[Rest]:
    """The number of equations that leave each rest when divided by the sizes that are known.

    Leaves out equations whose length is not a multiple of these: one of the numbers is wrong.
    """
    known = {**sizes, **label_sizes(sizes)}
    left: Counter[Rest] = Counter()
    for axes, length in equations:
        divisor = math.prod(known[axis] for axis in axes if axis in known)
        if divisor and length % divisor == 0:
            unknown = frozenset(axis for axis in axes if axis not in known)
            left[unknown, length // divisor] += 1
    return left


def _votes(left: Counter[Rest]) -> Votes:
    """The votes of equations in which one axis is left: kv = 3."""
    votes: Votes = defaultdict(Counter)
    for (unknown, length), count in left.items():
        if len(unknown) == 1 and unknown.isdisjoint(LABELS):
            votes[min(unknown)][length] += count
    return votes


def _votes_of_pairs(left: Counter[Rest]) -> Votes:
    """The votes of two equations that differ in one axis.

    Such are those of queries and keys: kv * group * k = 30 and kv * k = 10 give group = 3.
    """
    votes: Votes = defaultdict(Counter)
    for ((more, length), count), ((fewer, divisor), times) in itertools.product(
        left.items(), repeat=2
    ):
        added = more - fewer
        one = fewer < more and len(added) == 1 and added.isdisjoint(LABELS)
        if one and divisor and length % divisor == 0:
            votes[min(added)][length // divisor] += min(count, times)
    return votes


def label_sizes(sizes: Sizes) -> dict[str, int]:
    """The number of entries on each label axis, where the sizes of its parts are known."""
    return {
        axis: sum(math.prod(sizes[each] for each in own) for own in labels.values())
        for axis, labels in LABELS.items()
        if all(each in sizes for own in labels.values() for each in own)
    }

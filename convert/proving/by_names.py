"""Matches numbers by the names of their arrays, if values and gradients leave several choices."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

Places = Mapping[str, Sequence[int]]  # name of an array -> positions of numbers in it


def matched(
    torch: Places, jax: Places, sure: Iterable[tuple[str, str]]
) -> Iterator[tuple[int, int]]:
    """Pair the positions of both sides, beginning with arrays whose names are most similar.

    Names are similar if they begin like a pair in `sure`, as a weight does next to a bias. The rest
    is paired in order; layers with the same name in torch stay together, as in an array of all
    layers.
    """
    if len(torch) == len(jax) == 1:
        yield from zip(*torch.values(), *jax.values(), strict=False)
        return
    known = [(_parts(one), _parts(other)) for one, other in sure]
    templates = list(dict.fromkeys(map(_template, torch)))
    ranked = sorted(
        itertools.product(torch, jax),
        key=lambda pair: (-_nearness(pair, known), templates.index(_template(pair[0]))),
    )
    left = {name: list(places) for name, places in torch.items()}
    free = {name: list(places) for name, places in jax.items()}
    for one, other in ranked:
        count = min(len(left[one]), len(free[other]))
        yield from zip(left[one][:count], free[other][:count], strict=True)
        del left[one][:count], free[other][:count]


def _parts(name: str) -> list[str]:
    return re.split(r"[./]", name)


def _template(name: str) -> str:
    """`name` without the numbers of layers."""
    return ".".join("#" if part.isdigit() else part for part in _parts(name))


def _nearness(pair: tuple[str, str], known: Iterable[tuple[list[str], list[str]]]) -> float:
    """The largest share of both names that is a prefix of a pair in `known`.

    A pair with the same numbers in both names is a little nearer.
    """
    ours, theirs = map(_parts, pair)
    shares = (
        _common(ours, one) / len(ours) * _common(theirs, other) / len(theirs)
        for one, other in known
    )
    layers = {part for part in ours if part.isdigit()}
    return max(shares, default=0.0) + 0.01 * (layers <= {*re.findall(r"\d+", pair[1])})


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the common prefix, in parts of names."""
    pairs = zip(one, other, strict=False)
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))

"""The usual names of the tensors outside the blocks of an encoder-decoder, or of a lone decoder.

Tables of ids and of positions, final norms and the head go to one side or to both. Words and
shapes say which; names that differ in one place, such as `emb_a` and `emb_b`, are those of two
sides, and one such pair that is known settles the others. The order of the file says nothing: a
class may have its decoder first.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..names.tensor_names import Table, count_words, is_mask
from .pair_blocks import is_bias
from .renamed import joined
from .units import norms_of

SIDES = {
    "encoder": "src|source|enc|in |input|inp ",
    "decoder": "tgt|trg|target|tar |dec|out |output",
}
IDS = "tok|word|emb|vocab|lut|char|lexic|wte|symbol"
PLACES = "pos|place|where|wpe|pe |order|time|loc"
HEAD = "head|out|proj|fc|lin|logit|vocab|generat|dense|final|lm |unemb|class|predict"
OF_HEAD = "a head"


@dataclass(frozen=True)
class Item:
    """A module outside the blocks, or a parameter without one."""

    name: str
    tensors: Table  # by the whole names
    kind: str  # "table", "norm" or OF_HEAD
    rows: int = 0  # of a table or of a head

    @property
    def matrix(self) -> tuple[int, ...]:
        return max(self.tensors.values(), key=len)


Slots = dict[str, str]  # the item -> its part: "encoder ids", "both positions", "decoder norm"
Names = dict[str, str]


def ways_of_ends(outside: Table, width: int, alone: bool) -> list[Names]:
    """The usual names of the tensors `outside` the blocks, in each of the likeliest ways.

    `alone` is whether the blocks are those of a decoder alone.
    """
    items = list(_items(outside, width))
    heads = _heads(items)
    best: list[Names] = []
    highest: float | None = None
    for head in heads:
        rest = [item for item in items if item is not head and item.kind in ("table", "norm")]
        for slots in _slots(rest, alone):
            score = _score(slots, rest, head, alone)
            if score is None or (highest is not None and score < highest):
                continue
            if highest is None or score > highest:
                best, highest = [], score
            named = _named(slots, rest, head, alone)
            if named not in best:
                best.append(named)
    return best


def _items(outside: Table, width: int) -> Iterator[Item]:
    modules: dict[str, Table] = {}
    for name, shape in outside.items():
        path, _, leaf = name.rpartition(".")
        usual = leaf in ("weight", "bias") or len(shape) == 1
        modules.setdefault(path if usual and path else name, {})[name] = shape
    norms = {*norms_of(outside, width)}
    for module, tensors in modules.items():
        shapes = sorted(tensors.values(), key=len, reverse=True)
        if module in norms:
            yield Item(module, tensors, "norm")
        elif len(shapes[0]) < 2 or any(is_mask(n, s) for n, s in tensors.items()):
            continue
        elif len(shapes) == 1 and _rows(shapes[0], width):
            yield Item(module, tensors, "table", _rows(shapes[0], width))
        elif shapes[1:] == [shapes[0][:1]] and shapes[0][1:] == (width,):
            yield Item(module, tensors, OF_HEAD, shapes[0][0])


def _rows(shape: tuple[int, ...], width: int) -> int:
    """The number of rows of a table of `width`; 0 if it is none."""
    long = [n for n in shape[:-1] if n > 1] or [1]
    return long[0] if shape[-1] == width and len(long) == 1 and len(shape) < 4 else 0


def _heads(items: Sequence[Item]) -> list[Item | None]:
    """The possible heads: those that words or a bias tell, else none, or any of the tables."""
    biased = [item for item in items if item.kind == OF_HEAD]
    if biased:
        return list(biased)
    tables = [
        i for i in items if i.kind == "table" and len(i.matrix) == 2 and i.name not in i.tensors
    ]
    last = {item.name: item.name.rpartition(".")[2] for item in tables}
    named = [
        i
        for i in tables
        if count_words(i.name, HEAD) and not count_words(last[i.name], IDS + "|" + PLACES)
    ]
    if named:
        return [*named]
    unknown = [i for i in tables if not count_words(i.name, IDS + "|" + PLACES)]
    return [None, *unknown]


def _slots(items: Sequence[Item], alone: bool) -> Iterator[Slots]:
    """Yield the ways to give each item a part."""
    sides = ("decoder",) if alone else ("encoder", "decoder")
    both = () if alone else ("both",)
    parts = [
        [f"{side} {kind}" for kind in ("ids", "positions") for side in (*sides, *both)]
        if item.kind == "table"
        else [f"{side} norm" for side in sides]
        for item in items
    ]
    for way in itertools.product(*parts) if len(items) < 7 else ():
        if len({*way}) == len(way) and _is_whole(way, sides):
            yield dict(zip((item.name for item in items), way, strict=True))


def _is_whole(way: Sequence[str], sides: Sequence[str]) -> bool:
    """Whether each side has a table of ids, alone or with the other, and positions once."""
    has = {*way}
    own = [f"{side} ids" in has for side in sides]
    ids = ("both ids" in has and not any(own)) or ("both ids" not in has and all(own))
    doubled = "both positions" in has and {"encoder positions", "decoder positions"} & has
    return ids and not doubled


def _score(slots: Slots, items: Sequence[Item], head: Item | None, alone: bool) -> float | None:
    """A score for how well words agree with `slots`; None if shapes contradict them."""
    score = 0.0
    by_part = {part: item for item in items if (part := slots[item.name])}
    ids = by_part.get("both ids") or by_part["decoder ids"]
    if head and ids.rows != head.rows:
        return None
    for item in items:
        side, kind = slots[item.name].split()
        if item.kind == "table":
            score += _agreement(item, kind)
            if kind == "ids" and (len(item.matrix) == 3):
                return None
        if not alone:
            said = side_of(item.name)
            score += 4 * ((said == side) - (bool(said) and said != side and side != "both") * 1)
            score += 0.5 * (side == "both" and not said)
            score -= 4 * (side == "both" and bool(said))
    tables = [by_part[f"{side} positions"].rows for side in SIDES if f"{side} positions" in by_part]
    return score + 3 * _marked_alike(by_part) + (len({*tables}) < len(tables))


def _agreement(item: Item, kind: str) -> float:
    """A score for how well the name of a table agrees with this `kind`."""
    places, ids = count_words(item.name, PLACES), count_words(item.name.rpartition(".")[2], IDS)
    bare = item.name in item.tensors
    if places:
        return 4.0 if kind == "positions" else -4.0
    if ids or bare:
        return 4.0 if (kind == "positions") == (not ids) else -4.0
    return 0.0


def side_of(name: str) -> str:
    """The side that the words of `name` say, or ""."""
    for side in SIDES:
        if name.startswith(f"{side}."):
            return side
    counts = {side: count_words(name, words) for side, words in SIDES.items()}
    told = [side for side, count in counts.items() if count > 0]
    return told[0] if len(told) == 1 else ""


def _marked_alike(by_part: Mapping[str, Item]) -> int:
    """The number of pairs of kinds whose names differ in the same words for the two sides, minus
    the number of those in which the words are swapped."""
    marks: list[tuple[str, ...]] = []
    for kind in ("ids", "positions", "norm"):
        if {f"encoder {kind}", f"decoder {kind}"} <= by_part.keys():
            pair = [by_part[f"{side} {kind}"].name for side in ("encoder", "decoder")]
            marks.append(tuple(joined(pair, "")[1]))
    return sum(one == two for one, two in itertools.combinations(marks, 2)) - sum(
        one == two[::-1] for one, two in itertools.combinations(marks, 2)
    )


def _named(slots: Slots, items: Sequence[Item], head: Item | None, alone: bool) -> Names:
    """The usual names of the tensors of `items`, whose parts are `slots`, and of the `head`."""
    usual: Names = {}
    for item in items:
        side, kind = slots[item.name].split()
        start = "" if side == "both" or alone else f"{side}."
        for name, shape in item.tensors.items():
            if kind == "norm":
                leaf = "bias" if is_bias(name.rpartition(".")[2]) else "weight"
                usual[name] = f"{start}norm.{leaf if len(item.tensors) > 1 else 'weight'}"
            elif kind == "positions":
                word = "pos_embedding.weight" if len(shape) == 2 else "pos_emb.pe"
                usual[name] = f"{start}{word}"
            else:
                usual[name] = f"{start or ('' if alone else 'shared.')}" + (
                    "embedding.weight" if start or alone else "weight"
                )
    for name, shape in (head.tensors if head else {}).items():
        leaf = "bias" if len(shape) == 1 else "weight"
        usual[name] = f"{'lm_head' if alone else 'generator'}.{leaf}"
    return usual

"""Gives the modules of blocks the usual names where their tensors show what they are.

The MLP has matrices from the width of the model to another one and back, cross-attention is what
only the decoder's blocks have, and norms with numbers or letters at the end are in that order.
"""

import re
from collections import defaultdict
from collections.abc import Collection

from ..names import attention_parts, modern_parts, pair_parts, parts
from .gates import gate_ranks, is_told
from .pair_names import usual_in_pair
from .tensor_names import Table, count_words, matrices

BLOCK, ENCODER = "{layer}.", "encoder.layers.{layer}."
PARTS = {  # words of the matrices of attention that say which they are
    *(word.rpartition("=")[2] for words in attention_parts.QKV_OF_PAIRS for word in words.split()),
    *attention_parts.FUSED.split(), *attention_parts.QUERY.split(),
    *attention_parts.KEY_VALUE.split(),
}  # fmt: skip
ATTENTION = {*parts.ATTENTION.split(), *pair_parts.SELF.split()}
CROSS, CROSS_NORM = {*pair_parts.CROSS.split()}, {*pair_parts.CROSS_NORM.split()}
OUT = {*parts.OUT.split(), *pair_parts.OUT.split()}
MLP = {*parts.MLP.split()}
IN_MLP = {
    *parts.UP.split(), *parts.DOWN.split(), *modern_parts.BACK.split(),
    *modern_parts.GATE_FIRST.split(), *modern_parts.GATE_LAST.split(),
    *" ".join([*modern_parts.NAMED, *modern_parts.NUMBERED]).split(),
}  # fmt: skip
NORMS = {*f"{pair_parts.NORM1} {pair_parts.NORM2} {pair_parts.THREE}".split()}
LAST = re.compile(r"_?([0-9]|[abc]|one|two|three|first|second|third)$")


def usual_modules(table: Table, width: int) -> dict[str, str]:
    """The usual name for each of `table`, which has {layer} for the number of a block.

    The model has `width`.
    """
    usual_of_pair = usual_in_pair(table, width)
    if usual_of_pair is not None:
        return usual_of_pair
    blocks: defaultdict[str, Table] = defaultdict(dict)
    for name, shape in table.items():
        if BLOCK in name:
            stem, _, rest = name.partition(BLOCK)
            blocks[f"{stem}{BLOCK}"][rest] = shape
    children = {stem: {name.partition(".")[0] for name in block} for stem, block in blocks.items()}
    usual = {name: name for name in table}
    for stem, block in blocks.items():
        encoder = children.get(ENCODER) if stem != ENCODER else None
        renamed = _usual_in_block(block, width, encoder)
        usual |= {stem + name: stem + new for name, new in renamed.items()}
    return usual


def _usual_in_block(block: Table, width: int, other: Collection[str] | None) -> dict[str, str]:
    """The usual names in a block; for a decoder's, `other` are the modules in the encoder's."""
    modules: defaultdict[str, Table] = defaultdict(dict)
    for name, shape in block.items():
        module, _, inside_it = name.partition(".")
        modules[module][inside_it] = shape
    wide = {m: matrices(inside) for m, inside in modules.items() if len(matrices(inside)) > 1}
    mlps = [m for m, inside in wide.items() if _leads_back([*inside.values()], width)]
    rest = [m for m in wide if m not in mlps]
    own = [m for m in rest[1:] if other is not None and m not in other and not _is_own(m)]
    rest = [m for m in rest if m not in own]
    new = {m: m for m in modules}
    inner: dict[str, str] = {}
    for found, words, usual in (
        (mlps, MLP, "mlp"),
        (own, CROSS, "cross_attn"),
        (rest, ATTENTION, "attn"),
    ):
        if len(found) == 1:
            new[found[0]] = found[0] if found[0] in words else usual
            words_in = (
                _usual_mlp(wide[found[0]], width) if found is mlps else _usual_out(wide[found[0]])
            )
            inner |= {f"{found[0]}.{old}": word for old, word in words_in.items()}
    new |= _usual_norms([m for m, inside in modules.items() if not matrices(inside)], other)
    if len({*new.values()}) < len(new):
        return {}
    return {name: _renamed(name, new, inner) for name in block}


def _is_own(module: str) -> bool:
    """Whether the word of a module says that it is self-attention."""
    return module in ATTENTION or bool(count_words(module, "mask|self|causal"))


def _renamed(name: str, modules: dict[str, str], inner: dict[str, str]) -> str:
    module, dot, rest = name.partition(".")
    word, _, leaf = rest.rpartition(".")
    rest = f"{inner[f'{module}.{word}']}.{leaf}" if f"{module}.{word}" in inner else rest
    return f"{modules[module]}{dot}{rest}"


def _leads_back(shapes: list[tuple[int, ...]], width: int) -> bool:
    """Whether matrices (out, in) lead from `width` to another one, and back."""
    if not 2 <= len(shapes) <= 3 or any(len(shape) != 2 for shape in shapes):
        return False
    return any(_is_last(i, shapes, width) for i in range(len(shapes)))


def _is_last(i: int, shapes: list[tuple[int, ...]], width: int) -> bool:
    """Whether the others lead to a width from which matrix `i` leads back to `width`."""
    out, hidden = shapes[i]
    first = [*shapes[:i], *shapes[i + 1 :]]
    together = {(hidden, width)} if len(first) == 2 else {(hidden, width), (2 * hidden, width)}
    return out == width != hidden and {*first} <= together


def _usual_mlp(inside: Table, width: int) -> dict[str, str]:
    """The usual words for the matrices of an MLP, by what precedes the last word of their names."""
    words = {name.rpartition(".")[0]: shape for name, shape in inside.items()}
    if len(words) < len(inside) or {*words} <= IN_MLP:
        return {}
    shapes = list(words.values())
    last = [*words][next(i for i in range(len(shapes)) if _is_last(i, shapes, width))]
    first = [word for word in words if word != last]
    if len(first) == 1:
        return {first[0]: "up" if words[first[0]][0] == words[last][1] else "wi", last: "down"}
    if not is_told(*first):
        return {}
    one, two = gate_ranks(*first)
    gate, up = first if one > two else first[::-1]
    return {gate: "gate", up: "up", last: "down"}


def _usual_out(inside: Table) -> dict[str, str]:
    """The usual word for the one matrix of attention that is none of queries, keys and values."""
    words = [name.rpartition(".")[0] for name in inside]
    others = [word for word in words if word not in PARTS]
    known = len(others) == 1 < len(words)
    return {others[0]: "out_proj"} if known and others[0] not in OUT else {}


def _usual_norms(norms: list[str], other: Collection[str] | None) -> dict[str, str]:
    """The usual names of the `norms` of a block: numbered, or the one of cross-attention."""
    if {*norms} <= NORMS | CROSS_NORM:
        return {}
    ends = {norm: match for norm in norms if (match := LAST.search(norm))}
    stems = {norm[: match.start()] for norm, match in ends.items()}
    order = sorted(norms, key=lambda norm: _rank(ends[norm][1]) if norm in ends else 0)
    if len(ends) == len(norms) > 1 and len(stems) == 1:
        return {norm: f"norm{i + 1}" for i, norm in enumerate(order)}
    own = [norm for norm in norms if other is not None and norm not in other]
    return {own[0]: "norm_cross"} if len(own) == 1 < len(norms) else {}


def _rank(end: str) -> int:
    words = ("one", "two", "three"), ("first", "second", "third"), ("a", "b", "c")
    return (
        next((each.index(end) for each in words if end in each), -1)
        if not end.isdigit()
        else int(end)
    )

"""Gives the modules of a decoder's blocks the usual names where their tensors show what they are.

The MLP has matrices from the width of the model to another one and back, and norms with numbers or
letters at the end are in that order.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from ..names import modern_parts, pair_parts, parts
from ..names.gates import gate_ranks, words_show_gate
from ..names.tensor_names import Table, matrices
from .attention_words import PARTS, usual_words
from .norm_words import of_queries_and_keys, usual_norms
from .unwrapped import unwrapped

BLOCK, ENCODER = "{layer}.", "encoder.layers.{layer}."
ATTENTION = {*parts.ATTENTION.split(), *pair_parts.SELF.split()}
MLP = {*parts.MLP.split()}
IN_MLP = {*" ".join([*modern_parts.NAMED, *modern_parts.NUMBERED]).split()}
UP, DOWN = {*parts.UP.split()}, {*parts.DOWN.split()}
GATED = {*modern_parts.GATE_FIRST.split(), *modern_parts.GATE_LAST.split(), *UP}
BACK = {*modern_parts.BACK.split(), *DOWN}


def usual_modules(table: Table, width: int, ordered: bool, unusual: bool) -> dict[str, str]:
    """The usual name for each of `table`, which has {layer} for the number of a block.

    The model has `width`; `ordered` is whether the file keeps the order of the class; `unusual`,
    whether its matrices are taken to be stored in an unusual way.
    """
    if any(name.startswith(ENCODER) for name in table):
        return {name: name for name in table}  # `pair_guesses` has more to go by
    blocks: defaultdict[str, Table] = defaultdict(dict)
    for name, shape in table.items():
        if BLOCK in name:
            stem, _, rest = name.partition(BLOCK)
            blocks[f"{stem}{BLOCK}"][rest] = shape
    usual = {name: name for name in table}
    for stem, block in blocks.items():
        bare, owners = unwrapped(block, width)
        inner = {bare[name]: shape for name, shape in block.items()}
        renamed = _usual_in_block(inner, _Kind(width, ordered, unusual, owners))
        usual |= {f"{stem}{name}": f"{stem}{renamed.get(new, new)}" for name, new in bare.items()}
    return usual


@dataclass(frozen=True)
class _Kind:
    """What is known of a block."""

    width: int  # of the model
    ordered: bool  # whether its tensors have the order of the class
    unusual: bool  # whether its matrices are taken to be stored in an unusual way
    owners: Mapping[str, str]  # the modules that norms were in


def _usual_in_block(block: Table, kind: _Kind) -> dict[str, str]:
    """The usual names in a block."""
    width = kind.width
    modules: defaultdict[str, Table] = defaultdict(dict)
    for name, shape in block.items():
        module, _, inside_it = name.partition(".")
        modules[module][inside_it] = shape
    wide = {m: matrices(inside) for m, inside in modules.items() if len(matrices(inside)) > 1}
    mlps = [
        m
        for m, inside in wide.items()
        if m not in ATTENTION and _leads_back([*inside.values()], width) and not _has_parts(inside)
    ]
    rest = [m for m in wide if m not in mlps]
    new = {m: m for m in modules}
    inner: dict[str, str] = {}
    for found, words, usual in ((mlps, MLP, "mlp"), (rest, ATTENTION, "attn")):
        if len(found) == 1:
            new[found[0]] = found[0] if found[0] in words else usual
            words_in = (
                _usual_mlp(wide[found[0]], kind)
                if found is mlps
                else {**usual_words(wide[found[0]], width), **_usual_qk_norms(modules[found[0]])}
            )
            inner |= {f"{found[0]}.{old}": word for old, word in words_in.items()}
    norms = [m for m, inside in modules.items() if not matrices(inside)]
    of_norms: dict[str, str] = {}
    if len(rest) == len(mlps) == 1:
        paths = [n.rpartition(".")[0] for n, s in block.items() if s == (width,)]
        norms = [path for path in dict.fromkeys(paths) if path.partition(".")[0] in norms]
        of_norms = usual_norms(norms, kind.owners, (rest[0], mlps[0]), kind.ordered)
    if len({*new.values()}) < len(new):
        return {}
    return {
        name: f"{of_norms[path]}.{leaf}" if path in of_norms else _renamed(name, new, inner)
        for name in block
        for path, _, leaf in [name.rpartition(".")]
    }


def _has_parts(inside: Table) -> bool:
    """Whether the name of a matrix is a word for queries, keys or values, and not for an MLP."""
    return any(name.rpartition(".")[0] in PARTS - GATED for name in inside)


def _usual_qk_norms(inside: Table) -> dict[str, str]:
    """The usual words of the norms of queries and keys in an attention module."""
    words = {name.rpartition(".")[0]: len(shape) for name, shape in inside.items()}
    of_matrices = {name.rpartition(".")[0] for name in matrices(inside)}
    return of_queries_and_keys([word for word in words if word and word not in of_matrices])


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
    """Whether matrix `i` maps the width that the other matrices produce back to `width`."""
    out, hidden = shapes[i]
    first = [*shapes[:i], *shapes[i + 1 :]]
    together = {(hidden, width)} if len(first) == 2 else {(hidden, width), (2 * hidden, width)}
    return out == width != hidden and {*first} <= together


def _usual_mlp(inside: Table, kind: _Kind) -> dict[str, str]:
    """The usual words for the matrices of an MLP, by what precedes the last word of their names."""
    words = {name.rpartition(".")[0]: shape for name, shape in inside.items()}
    if len(words) < len(inside) or (len(words) == 3 and {*words} <= IN_MLP):
        return {}
    shapes = list(words.values())
    last = [*words][next(i for i in range(len(shapes)) if _is_last(i, shapes, kind.width))]
    first = [word for word in words if word != last]
    if len(first) == 1:
        gated = words[first[0]][0] != words[last][1]
        known = {*words} <= (GATED | BACK if gated else UP | DOWN)
        backward = kind.unusual and kind.ordered and next(iter(words)) == last
        return {} if known or backward else {first[0]: "wi" if gated else "up", last: "down"}
    if not words_show_gate(*first):
        return {}
    one, two = gate_ranks(*first)
    gate, up = first if one > two else first[::-1]
    return {gate: "gate", up: "up", last: "down"}

"""The usual names of the tensors in blocks of encoder-decoders, and of decoders with a memory."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..names.tensor_names import Table, count_words
from .attention_roles import IN_TORCH, mlp_roles, roles
from .bare_parameters import BIAS
from .norm_places import CROSS_WORDS, SELF_WORDS, Places, in_order, places_of
from .units import ATTENTION, MLP, Unit, is_within, norms_of, units_of

MODULES = {"self": "self_attn", "cross": "cross_attn", "mlp": "ffn"}


@dataclass(frozen=True)
class Block:
    """The first block of one side: its tensors, units and norms."""

    tensors: Table
    units: tuple[Unit, ...]  # in the order of the file
    norms: tuple[str, ...]

    @staticmethod
    def of(tensors: Table, width: int) -> "Block":
        """The block of `tensors` in a model of `width`."""
        units = tuple(units_of(tensors, width))
        heads = {n for n in norms_of(tensors, width) if _is_of_heads(n, units)}
        norms = (n for n in norms_of(tensors, width) if n not in heads)
        inside = {f"{_start(u)}{word}" for u in units for word in u.words}
        return Block(tensors, units, tuple(n for n in norms if n not in inside))

    @property
    def attentions(self) -> list[Unit]:
        return [unit for unit in self.units if unit.kind == ATTENTION]

    def has(self, attentions: int) -> bool:
        """Whether it has this number of attention modules, an MLP, and no norms or one for each."""
        kinds = [unit.kind for unit in self.units]
        known = kinds.count(ATTENTION) == attentions and kinds.count(MLP) == 1
        return known and len(self.norms) in (0, len(kinds))

    def with_norms(self, count: int) -> "Block":
        """The block as if it had `count` norms."""
        return replace(self, norms=tuple(map(str, range(count))))


Key = tuple[str, tuple[str, ...], tuple[tuple[int, ...], ...]]  # of units that are read alike
Names = dict[str, str]  # of tensors in a block -> the usual ones


def ways_of_blocks(
    blocks: Sequence[Block], width: int, evidence: str, ordered: bool
) -> Iterator[list[Names]]:
    """Yield the usual names in each of `blocks`, the decoder's last, in each possible way.

    There is one way if words, numbers or shapes tell which part of a block is which. `ordered` is
    whether the tensors have the order of the class, and not that of the alphabet.
    """
    *others, decoder = blocks
    words = sorted({_key(unit) for block in blocks for unit in block.units})
    first = {_key(unit): unit for block in blocks for unit in block.units}
    options = [
        roles(first[key], width) if key[0] == ATTENTION else mlp_roles(first[key], width, evidence)
        for key in words
    ]
    for order in _orders(decoder, others[0] if others else None, ordered):
        parts = [*([["self"]] * len(others)), order]
        placed = [
            places_of(list(b.norms), _sorted(b), _roles(b, part), ordered)
            for b, part in zip(blocks, parts, strict=True)
        ]
        for norms in itertools.product(*placed):
            for chosen in itertools.product(*options):
                named = dict(zip(words, chosen, strict=True))
                yield [
                    _names(block, _roles(block, part), named, places)
                    for block, part, places in zip(blocks, parts, norms, strict=True)
                ]


def _key(unit: Unit) -> Key:
    return unit.kind, unit.words, tuple(unit.matrices.values())


def _sorted(block: Block) -> list[Unit]:
    """The units of a block, attention first."""
    return [*block.attentions, *(unit for unit in block.units if unit.kind == MLP)]


def _roles(block: Block, attentions: Sequence[str]) -> list[str]:
    return [*attentions, "mlp"] if block.units else []


def _orders(decoder: Block, encoder: Block | None, ordered: bool) -> list[list[str]]:
    """The possible roles of a decoder's attention modules, in file order; one if it is clear."""
    one, two = decoder.attentions
    ways = [["self", "cross"], ["cross", "self"]]
    ways = [
        way for way, other in zip(ways, (two, one), strict=True) if not _says(other, SELF_WORDS)
    ]
    votes = [_says(two, CROSS_WORDS) - _says(one, CROSS_WORDS)]
    if encoder is not None:
        (own,) = encoder.attentions
        # It is named like that of the encoder, numbered after the other, or has queries apart.
        votes.append((one.owner == own.owner != "") - (two.owner == own.owner != ""))
        ranks = in_order([one.path, two.path], ordered)
        votes.append(ranks[1] - ranks[0] if ranks and not any(votes) else 0)
        votes.append((len(two.matrices) - len(one.matrices)) * (not any(votes)))
    told = [["self", "cross"]] * (max(votes) > 0) + [["cross", "self"]] * (min(votes) < 0)
    return told if len(told) == 1 and told[0] in ways else ways


def _says(unit: Unit, words: str) -> bool:
    """Whether one of `words` is in the name of an attention module."""
    return bool(count_words(unit.path if unit.owner else " ".join(unit.words), words))


def _names(block: Block, parts: Sequence[str], named: Mapping[Key, Names], places: Places) -> Names:
    """The usual names of the tensors in `block`, whose units are `parts`."""
    part = dict(zip(map(id, _sorted(block)), parts, strict=True))
    number = {"self": 1, "cross": 2, "mlp": len(parts)}
    norms = {norm: f"norm{number[part[id(unit)]]}" for norm, unit in places.items()}
    return {
        name: _of_norm(name, norms, block.tensors) or _of_unit(name, block, part, named) or name
        for name in block.tensors
    }


def _of_norm(name: str, norms: Names, block: Table) -> str:
    module, _, leaf = name.rpartition(".")
    if module not in norms:
        return ""
    both = [each for each in block if each.rpartition(".")[0] == module]
    biases = [each for each in both if is_bias(each.rpartition(".")[2])]
    if len(both) == 2 and len(biases) == 1:
        leaf = "bias" if name in biases else "weight"
    return f"{norms[module]}.{leaf if len(both) == 2 else 'weight'}"


def is_bias(leaf: str) -> bool:
    """Whether the last word of a name is that of a bias."""
    return bool(re.fullmatch(rf"({BIAS})\w*", leaf.lower()))


def _of_unit(name: str, block: Block, part: Mapping[int, str], named: Mapping[Key, Names]) -> str:
    for unit in block.units:
        start = _start(unit)
        if not name.startswith(start):
            continue
        rest, module = name.removeprefix(start), MODULES[part[id(unit)]]
        word, _, leaf = rest.rpartition(".")
        words = named[_key(unit)]
        if rest in words:  # a parameter of torch's own attention
            return f"{module}.{words[rest]}"
        if word in words:
            return f"{module}.{words[word]}.{leaf}"
        if unit.owner or IN_TORCH in words:
            return f"{module}.{rest}"
    return ""


def _start(unit: Unit) -> str:
    return f"{unit.path}." if unit.path else ""


def _is_of_heads(norm: str, units: Sequence[Unit]) -> bool:
    """Whether a norm in an attention module is that of queries or of keys."""
    word = norm.rpartition(".")[2].lower()
    mark = re.fullmatch(r"(norm_|ln_)?(q|k|query|key)(_?norm|_?ln|_\w+)?", word)
    return bool(mark) and any(u.kind == ATTENTION and is_within(norm, u.path) for u in units)

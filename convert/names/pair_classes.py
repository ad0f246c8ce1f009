"""Rows of classes of encoder-decoders whose names are known exactly."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..rows.dialect import Dialect
from ..rows.kinds import EMBEDDING, POSITIONS, Kind, linear, row, tied
from ..rows.pair import Pair
from .pair_parts import norm


@dataclass(frozen=True)
class Side:
    """The names of one side: of its block, and of the parts in it by their Flax paths."""

    block: str
    attention: Mapping[str, str]  # Flax path -> the module
    norms: Mapping[str, str]
    embedding: str
    positions: str = ""  # of a table (1, T, D), if the file has one
    final: str = ""  # the final norm, if there is one
    head: str = ""
    head_bias: bool = True
    embedding_norm: str = ""
    order: str = ""  # the modules in a block, where they are not attention, MLP and norms


@dataclass(frozen=True)
class Names:
    """The names that both sides of a class have for the parts of modules."""

    qkv: str  # the words of queries, keys and values
    inside: str  # the matrix of one of them, with {qkv} for its word
    out: str
    up: str
    down: str
    norm: str = "weight bias"


def rows(side: Side, names: Names) -> tuple[Kind, ...]:
    """The rows of `side`; attention may have biases or not."""
    listed: list[Kind] = []
    for flax, module in side.attention.items():
        inside = f"{side.block}.{module}"
        listed += linear(
            f"{flax}/qkv : layer d head qkv k", f"{inside}.{names.inside} : (head k) d", "?"
        )
        listed += linear(f"{flax}/out : layer head k d", f"{inside}.{names.out} : d (head k)", "?")
    listed += linear("blocks/mlp/up : layer d f", f"{side.block}.{names.up} : f d")
    listed += linear("blocks/mlp/down : layer f d", f"{side.block}.{names.down} : d f")
    for flax, module in side.norms.items():
        listed += norm(flax, f"{side.block}.{module}", words=names.norm)
    if side.order:
        modules = [f"{side.block}.{module}." for module in side.order.split()]
        listed.sort(
            key=lambda each: [str(each.torch.pieces[0]).startswith(m) for m in modules].index(True)
        )
        listed.insert(0, row(EMBEDDING.text, f"{side.embedding}.weight : v d"))
    if side.final:
        listed += norm("final_norm", side.final, words=names.norm)
    if not side.order:
        listed.append(row(EMBEDDING.text, f"{side.embedding}.weight : v d"))
    if side.embedding_norm:
        listed += norm("embedding_norm", side.embedding_norm, words=names.norm)
    if side.positions:
        listed.append(row(f"{POSITIONS} : t d", f"{side.positions} : () t d"))
    if side.head:
        listed.append(tied(f"{side.head}.weight : v d"))
    if side.head and side.head_bias:
        listed.append(row("head/bias : v", f"{side.head}.bias : v"))
    return tuple(listed)


def pair(plain: Dialect, names: Names, encoder: Side, decoder: Side, modules: str = "") -> Pair:
    """The pair of the class of `plain`, which has everything but rows and words.

    `modules` are those of the class, in its order.
    """

    def dialect(side: Side) -> Dialect:
        return Dialect(
            plain.name,
            plain.about,
            rows(side, names),
            words={"qkv": (names.qkv,)},
            unsaid=plain.unsaid,
            container=plain.container,
            beware=plain.beware,
        )

    return Pair(
        plain.name, plain.about, dialect(encoder), dialect(decoder), modules=tuple(modules.split())
    )

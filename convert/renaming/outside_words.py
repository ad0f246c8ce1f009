"""Gives the tensors outside the blocks usual names: embedding, position table, last norm and head.

They are recognised by known words and by shapes: the embedding and the head have a row for each
token. Otherwise the order of the file decides: it begins with the embedding, and the norm and the
head follow the blocks.
"""

from collections import defaultdict
from dataclasses import dataclass

from ..names import parts
from ..names.tensor_names import Table, count_words
from .unwrapped import LEAVES

TOKEN, POSITION = {*parts.TOKEN.split()}, {*parts.POSITION.split(), *parts.TABLE.split()}
HEAD, NORM = {*parts.HEAD.split()}, {*parts.FINAL.split(), *parts.EMBEDDING_NORM.split()}
OF_TOKENS, OF_POSITIONS, OF_HEADS = "emb|tok|wte|inp", "pos|place|wpe", "head|logit|unemb|lm |out"
BY_ORDER = (
    "only their order in the file, not their names, tells {names} apart: they are taken for {roles}"
)


@dataclass(frozen=True)
class Outside:
    """The usual names of tensors outside the blocks, and a warning if only order decided them."""

    names: dict[str, str]
    caveat: str = ""


def usual_outside(table: Table, width: int, ordered: bool) -> Outside:
    """The usual names of the tensors of `table`, in the order of the file, outside the blocks.

    The model has `width`; `ordered` is whether the file keeps the order of the class.
    """
    modules: defaultdict[str, Table] = defaultdict(dict)
    for name, shape in table.items():
        path, _, leaf = name.rpartition(".")
        if "{layer" not in name and leaf in LEAVES:
            modules[path][leaf] = shape
    order = _Order(table, ordered)
    wide = {p: s["weight"] for p, s in modules.items() if s.get("weight", ())[1:] == (width,)}
    norms = [p for p, s in modules.items() if {*s.values()} == {(width,)} and p not in wide]
    usual, caveat = _of_matrices(wide, modules, order)
    usual |= _of_norms(norms, order)
    if {*usual.values()} & {*modules} - {*usual}:
        return Outside({})
    names = {f"{p}.{leaf}": f"{new}.{leaf}" for p, new in usual.items() for leaf in modules[p]}
    return Outside(names, caveat)


class _Order:
    """Which modules precede and follow the blocks in a file; none if the file is in alphabetical
    order, which shows nothing."""

    def __init__(self, table: Table, ordered: bool):
        names = list(table)
        inside = [i for i, name in enumerate(names) if "{layer" in name]
        self._is_own = ordered
        self._before = {name.rpartition(".")[0] for name in names[: inside[0]]}
        self._after = {name.rpartition(".")[0] for name in names[inside[-1] + 1 :]}

    def is_before(self, module: str) -> bool:
        """Whether the `module` precedes the blocks."""
        return self._is_own and module in self._before

    def is_after(self, module: str) -> bool:
        """Whether the `module` follows the blocks."""
        return self._is_own and module in self._after


def _of_matrices(
    wide: Table, modules: dict[str, Table], order: _Order
) -> tuple[dict[str, str], str]:
    """The usual names of the modules in `wide`, and what only the order of the file tells."""
    known = {*wide} <= TOKEN | POSITION | HEAD
    tables = [p for p in wide if _is_table(p, wide)]
    rest = [p for p in wide if p not in tables]
    if known or len(tables) > 1 or not 0 < len(rest) < 3:
        return {}, ""
    usual = {p: p if p in POSITION else "position_embedding" for p in tables}
    if len(rest) == 1:
        return usual | {rest[0]: "token_embedding"}, ""
    if len({wide[p] for p in rest}) > 1:
        return {}, ""
    for token, head in (rest, rest[::-1]):
        if _is_head(head, modules) and not _is_head(token, modules):
            return usual | {token: "token_embedding", head: "lm_head"}, ""
    for token, head in (rest, rest[::-1]):
        against = count_words(token, OF_HEADS) > count_words(token, OF_TOKENS)
        against |= count_words(head, OF_TOKENS) > count_words(head, OF_HEADS)
        if order.is_before(token) and order.is_after(head) and not against:
            told = count_words(token, OF_TOKENS) or count_words(head, OF_HEADS)
            roles = {"names": f"{token} and {head}", "roles": "embedding and head"}
            caveat = "" if told else BY_ORDER.format(**roles)
            return usual | {token: "token_embedding", head: "lm_head"}, caveat
    return {}, ""


def _is_table(module: str, wide: Table) -> bool:
    """Whether a matrix is the position table: by its words, or as the third of three matrices of
    which the other two have a row for each token."""
    others = [shape for p, shape in wide.items() if p != module]
    if len(others) == 2 and others[0] == others[1] != wide[module]:
        return True
    told = module in POSITION or count_words(module, OF_POSITIONS) > 0
    return told and module not in TOKEN and bool(others) and wide[module] not in others


def _is_head(module: str, modules: dict[str, Table]) -> bool:
    """Whether a bias or the name of a matrix shows that it is the head's."""
    return "bias" in modules[module] or (module in HEAD and module not in TOKEN)


def _of_norms(norms: list[str], order: _Order) -> dict[str, str]:
    """The usual names of the one norm after the blocks, and of the one before them, if any."""
    if {*norms} <= NORM or len(norms) > 2:
        return {}
    after = [norm for norm in norms if order.is_after(norm)]
    before = [norm for norm in norms if order.is_before(norm)]
    if len(after) != 1 or len(before) != len(norms) - 1:
        return {}
    return {after[0]: "ln_f", **dict.fromkeys(before, "embedding_norm")}

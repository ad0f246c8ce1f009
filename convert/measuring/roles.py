"""Proposes dialects for a class with unknown names, from the order and the inputs of its products.

Matrices that multiply the same value belong together: queries, keys and values, or the gate and the
first matrix of an MLP. Running the class then shows which of them is which.
"""

import contextlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from jaxgpt.errors import UserError

from ..names.tensor_names import is_mask, joined
from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.kinds import Kind, mask, row, tied
from ..rows.labels import QKV
from .norm import same
from .trace_reader import Matrix, Reader

ABOUT = "a class without a known name, its roles shown by running it"
UNSAID = {name: value for name, value in USUAL.items() if name != "norm_std"}
# By the number of matrices in attention, how the last one holds several of q, k and v; in the usual
# order, of which there are others.
MERGED = {1: "(qkv head k)", 2: "(k_v head k)", 3: ""}  # two: next to one of queries alone


@dataclass
class Roles:
    """The roles of the tensors of a file: Flax view -> torch view, as text; and words of labels."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    words: dict[str, tuple[str, ...]] = field(default_factory=dict)


def proposals(reader: Reader) -> Iterator[tuple[Dialect, list[dict[str, int]]]]:
    """The dialects that the class may be, the likeliest first, and the head counts of each."""
    for split in _splits(reader.matrices()):
        attention, out, mlp, down = split
        orders = itertools.permutations(attention)
        gates = list(itertools.permutations(mlp))
        for order, gated in itertools.product(orders, gates):
            with contextlib.suppress(UserError):
                each = (list(order), out, list(gated), down)
                yield _dialect(reader, each), _head_counts(each)


def _head_counts(split: "Split") -> list[dict[str, int]]:
    """The numbers and widths of heads that fit the matrices, those with the widest heads first."""
    attention, out, _, _ = split
    width = out.x.shape[-1] if out else attention[0].x.shape[-1]
    if "{head}" in attention[0].name:
        return [{}]
    query, *rest = (each.out for each in attention)
    keys = rest[0] // (3 - len(rest)) if rest else (query - width) // 2
    if rest and (query != width or rest[-1] != keys * (3 - len(rest))):
        return []
    counts = []
    for heads in range(1, width + 1):
        head_dim = width // heads
        if width % heads == 0 and keys % head_dim == 0 and keys and heads % (keys // head_dim) == 0:
            sizes = {"num_heads": heads, "num_kv_heads": keys // head_dim, "head_dim": head_dim}
            counts.append(sizes)
    return counts


Split = tuple[list[Matrix], Matrix | None, list[Matrix], Matrix]


def _splits(matrices: list[Matrix]) -> Iterator[Split]:
    """How the matrices of a block may divide into attention and MLP."""
    if len(matrices) < 3:
        raise UserError("one of its blocks multiplies with fewer than three matrices")
    first = [each for each in matrices if same(each.x, matrices[0].x)]
    rest = [each for each in matrices if each not in first]
    if len(first) in MERGED and len(rest) in (3, 4):
        yield first, rest[0], rest[1:-1], rest[-1]
    if len(first) in MERGED and len(rest) in (2, 3):
        yield first, None, rest[:-1], rest[-1]
    if len(rest) == 2:
        for count in MERGED:
            if 0 < len(first) - count < 3:
                yield first[:count], rest[0], first[count:], rest[1]
                yield first[-count:], rest[0], first[:-count], rest[1]


def _holds_gate(up: Matrix, down: Matrix) -> bool:
    """Whether the first matrix of an MLP has a gate as well."""
    return up.out == 2 * down.x.shape[-1]


def _dialect(reader: Reader, split: Split) -> Dialect:
    """The dialect with these roles, and the usual orders within fused matrices."""
    attention, out, mlp, down = split
    roles, merged = Roles(), MERGED[len(split[0])]
    unsaid = {**UNSAID, **({"qkv_order": "by_part"} if merged else {})}
    token = reader.token()
    roles.rows.append(("token_embedding/embedding : v d", f"{token} : v d"))
    _rows_of_attention(roles, attention, merged)
    if out:
        _add(roles, "blocks/attn/out", "layer head k d", [out], ("d", "(head k)"))
    if len(mlp) == 2 or _holds_gate(mlp[0], down):
        dims = ("f", "d") if len(mlp) == 2 else ("(glu f)", "d")
        roles.words["glu"] = ("gate up",)
        unsaid |= {"gate_order": "gate_up"} if len(mlp) == 1 else {}
        _add(roles, "blocks/mlp/gate_up", "layer d glu f", mlp, dims, "glu")
    else:
        _add(roles, "blocks/mlp/up", "layer d f", mlp, ("f", "d"))
    _add(roles, "blocks/mlp/down", "layer f d", [down], ("d", "f"))
    _norm_rows(reader, roles, split)
    kinds: list[Kind] = [row(*pair) for pair in roles.rows]
    kinds += _outside(reader, roles, token)
    return Dialect("auto", ABOUT, tuple(kinds), unsaid=unsaid, words=roles.words, grouped=True)


def _rows_of_attention(roles: Roles, attention: list[Matrix], merged: str) -> None:
    flax, axes = "blocks/attn/qkv", "layer d head qkv k"
    if len(attention) == 2:
        query, rest = attention
        _add(roles, flax, axes, [query], ("(q head k)", "d"))
        _add(roles, flax, axes, [rest], (merged, "d"))
        return
    inner = merged or ("k" if "{head}" in attention[0].name else "(head k)")
    _add(roles, flax, axes, attention, (inner, "d"), "qkv")


def _add(
    roles: Roles,
    flax: str,
    axes: str,
    matrices: list[Matrix],
    dims: tuple[str, str],
    label: str = "",
) -> None:
    """Add the rows of a kernel and its bias; several matrices are one row with a label."""
    name, words = joined([each.name for each in matrices])
    name = name.replace("{qkv}", f"{{{label}}}") if label else name
    if words:
        labels = {"qkv": ("query", "key", "value"), "glu": ("gate", "up")}[label]
        pairs = zip(labels, words, strict=True)
        roles.words[label] = (" ".join(f"{each}={word}" for each, word in pairs),)
    order = dims[::-1] if matrices[0].transposed else dims
    roles.rows.append((f"{flax}/kernel : {axes}", f"{name} : {' '.join(order)}"))
    if not matrices[0].bias:
        return
    bias, _ = joined([each.bias for each in matrices])
    bias = bias.replace("{qkv}", f"{{{label}}}") if label else bias
    kept = {"layer", *re.findall(r"\w+", dims[0]), *re.findall(r"{(\w+)}", bias)}
    kept |= {"qkv"} if {*QKV} & kept else set()
    inner = " ".join(axis for axis in axes.split() if axis in kept)
    roles.rows.append((f"{flax}/bias : {inner}", f"{bias} : {dims[0]}"))


def _norm_rows(reader: Reader, roles: Roles, split: Split) -> None:
    """Add the rows of the norms in a block, by when they are used."""
    attention, out, _, down = split
    starts, width = min(each.at for each in attention), attention[0].x.shape[-1]
    events = [event for event in reader.norms() if reader.of_layer(event[1], 0)]
    between = [e for e in events if out and starts < e[0] < out.at]
    heads = between[-2:] if len(between) >= 2 else []
    wide = [event for event in events if event not in heads]
    before = [event for event in wide if event[0] < starts]
    middle = [event for event in wide if starts < event[0] < down.at]
    after = [event for event in wide if event[0] > down.at]
    names = ["norm1", "norm2"]
    ordered = [*before, *middle, *after]
    if len(before) == 2 and not same(_rows(before[0][3], width), attention[0].x.reshape(-1, width)):
        ordered = [before[1], before[0]]
    if len(ordered) == 4:
        names = ["norm1", "out_norm1", "norm2", "out_norm2"]
    if len(ordered) > 4:
        raise UserError("one of its blocks has more than four norms")
    for (_, scale, bias, _), name in zip(ordered, names, strict=False):
        _norm_row(reader, roles, f"blocks/{name}", (scale, bias), "layer d", "d")
    for (_, scale, bias, _), name in zip(heads, ("q_norm", "k_norm"), strict=False):
        group, merged = ("group", "(kv group k)") if name == "q_norm" else ("()", "(kv k)")
        full = reader.shapes[heads[0][1]][0] == (out.x.shape[-1] if out else width)
        axes = (f"layer kv {group} k", merged) if full else ("layer k", "k")
        _norm_row(reader, roles, f"blocks/attn/{name}", (scale, bias), *axes)


def _rows(value: torch.Tensor, width: int) -> torch.Tensor:
    return value.reshape(-1, width)


def _norm_row(
    reader: Reader, roles: Roles, flax: str, names: tuple[str, str], axes: str, dims: str
) -> None:
    scale, bias = (reader.folded(name) if name else "" for name in names)
    roles.rows.append((f"{flax}/scale : {axes}", f"{scale} : {dims}"))
    if bias:
        roles.rows.append((f"{flax}/bias : {axes}", f"{bias} : {dims}"))


def _outside(reader: Reader, roles: Roles, token: str) -> list[Kind]:
    """The rows of the tensors outside the blocks, and of those that no operation uses."""
    kinds: list[Kind] = []
    names = [name for name in reader.shapes if not name.startswith(reader.stem)]
    width = reader.shapes[token][1]
    last = max((u.at for u in reader.seen.uses if any(map(reader.blocks_name, u.names))), default=0)
    claimed = {token}
    for at, scale, bias, _ in reader.norms():
        if scale in names and scale not in claimed:
            flax = "final_norm" if at > last else "embedding_norm"
            pairs = [(f"{flax}/scale : d", scale), (f"{flax}/bias : d", bias)]
            kinds += [row(path, f"{name} : d") for path, name in pairs if name]
            claimed |= {scale, bias}
    for name in names:
        shape = reader.shapes[name]
        if name in claimed or len(shape) < 2:
            continue
        matrix = reader.matrix(name) if len(shape) == 2 else None
        if matrix and matrix.at > last:
            kinds.append(
                row("head/kernel : d v", f"{name} : d v")
                if matrix.transposed
                else tied(f"{name} : v d")
            )
            kinds += [row("head/bias : v", f"{matrix.bias} : v")] if matrix.bias else []
            claimed |= {name, matrix.bias}
        elif is_mask(name, shape):
            kinds.append(mask(f"{name} : {'() ' * (len(shape) - 2)}t t"))
            claimed.add(name)
        elif shape[-1] == width and any(name in use.names for use in reader.seen.uses):
            dims = "t d" if len(shape) == 2 else "() t d" if shape[0] == 1 else "t () d"
            kinds.append(row("pos_embedding/embedding : t d", f"{name} : {dims}"))
            claimed.add(name)
    head = reader.matrix(token)
    if head and head.bias:
        kinds.append(row("head/bias : v", f"{head.bias} : v"))
    return kinds

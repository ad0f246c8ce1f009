"""The kinds of rows: each says how one tensor of a file relates to the model.

The set is closed; whatever reads rows matches on the kind, never on a name.
"""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .axes import Dims, View
from .labels import QKV
from .pattern import Pattern
from .strides import stride

EMBEDDING = View.parse("token_embedding/embedding : v d")
HEAD = View.parse("head/kernel : d v")
POSITIONS = "pos_embedding/embedding"
SLOPES = "slopes"  # the form of buffers with the slopes of ALiBi
TABLES = ("cos", "sin", "angles", "cis", "pairs", "frequencies")  # forms of rotary tables


@dataclass(frozen=True)
class Row:
    """A parameter seen from both sides: its Flax view, and the pattern of its torch tensors."""

    flax: View
    torch: Pattern


@dataclass(frozen=True)
class Filled(Row):
    """A parameter that the class always has and a model may lack: then it is written as zeros."""


@dataclass(frozen=True)
class Shifted(Row):
    """A position table whose first `by` rows belong to no position; the axis of its rows is `p`."""

    by: int = 0


@dataclass(frozen=True)
class Scaled(Row):
    """A parameter that the class uses times `by` ** -0.5, where `by` is the size of an axis.

    The model has the product. A file's own values go back as long as they have that product.
    """

    by: str = "d"
    dtype: str = "float32"
    shape: tuple[int, ...] = ()
    bits: tuple[str, ...] = ()  # of the tensor in its file, compressed, in base64


@dataclass(frozen=True)
class Alias:
    """A tensor that may be a copy of the parameter `of`, as in a tied head.

    If the bits agree it is a copy, otherwise it is the parameter `own`. If `own` is `of`, it must
    be a copy, and is written only where the file had it.
    """

    torch: Pattern
    of: View = EMBEDDING
    own: View = HEAD

    @property
    def is_copy(self) -> bool:
        """Whether the tensor must be a copy."""
        return self.of == self.own


@dataclass(frozen=True)
class Buffer:
    """A tensor that follows from the config: checked on reading, not moved, recreated on writing.

    `form` is one of `buffers.FORMS`, the number that an additive mask adds, SLOPES, or "" for a
    tensor that is not looked at. That of a rotary table is one of TABLES, followed by a layout if
    the table has each frequency twice.
    """

    torch: Pattern
    form: str = "lower"
    dtype: str = "float32"
    written: bool = True  # whether the current version of the class stores it
    shape: tuple[int, ...] = ()  # of a rotary table or of slopes in a file
    # The bits of slopes, and of rotary tables that cannot be computed again, compressed, in base64:
    # those of one that all places share, or of each.
    bits: tuple[str, ...] = ()

    @property
    def is_table(self) -> bool:
        """Whether this is a table of rotary positions, not a mask."""
        return self.form.partition(" ")[0] in TABLES


Kind = Row | Alias | Buffer


def is_embedding(row: Kind) -> bool:
    """Whether `row` is of the token embedding."""
    return isinstance(row, Row) and row.flax == EMBEDDING


def is_embedding_or_copy(row: Kind) -> bool:
    """Whether `row` is of the token embedding, or of a tensor that may be a copy of it."""
    return row.of == EMBEDDING if isinstance(row, Alias) else is_embedding(row)


def part_of(dims: Dims) -> str:
    """The label axis in `dims` of a tensor that holds some of queries, keys and values, or ""."""
    return next((axis for axis in itertools.chain(*dims) if axis in QKV[1:]), "")


def row(flax: str, torch: str, kind: type[Row] = Row) -> Row:
    """The row of the views `flax` and `torch`, as text."""
    return kind(View.parse(flax), Pattern.parse(torch))


def shifted(flax: str, torch: str, by: int) -> Shifted:
    """The row of a table with `by` rows before that of position 0."""
    return Shifted(View.parse(flax), Pattern.parse(torch), by)


def tied(torch: str) -> Alias:
    """The row of the head's matrix `torch`, which may be the token embedding."""
    return Alias(Pattern.parse(torch))


def copy_of_embedding(torch: str) -> Alias:
    """The row of a copy `torch` of the token embedding, as old classes store beside it."""
    return Alias(Pattern.parse(torch), own=EMBEDDING)


def mask(torch: str, form: str = "lower", written: bool = True) -> Buffer:
    """The row of causal masks `torch`."""
    return Buffer(Pattern.parse(torch), form, written=written)


def table(torch: str, form: str) -> Buffer:
    """The row of rotary tables `torch` of `form`, which a file may lack and no export writes."""
    return Buffer(Pattern.parse(torch), form, written=False)


def ignored(torch: str) -> Buffer:
    """The row of a tensor of no consequence, of any value."""
    return Buffer(Pattern.parse(torch), form="", written=False)


def optional(rows: Iterable[Row]) -> tuple[Row, ...]:
    """`rows` with tensors that a file may lack."""
    return tuple(Row(row.flax, replace(row.torch, optional=True)) for row in rows)


def linear(flax: str, torch: str, bias: str = "", conv: bool = False) -> tuple[Row, ...]:
    """The rows of kernel and bias of a linear layer: `blocks/mlp/up : layer d f`, `mlp.c_fc : f d`.

    The bias has the first torch axis, or the last if `conv` (Conv1D). `bias` is "?" where a file
    may lack it, "no" where the class has none.
    """
    inner, outer = View.parse(flax), View.parse(torch)
    kernel = row(f"{inner.name}/kernel : {inner.formula}", f"{outer.name}.weight : {outer.formula}")
    if bias == "no":
        return (kernel,)
    out = outer.dims[-1 if conv else 0]
    spread = {stride(word).axis for word in re.findall(r"{(\w+)}", outer.name)}
    own = {*spread, *out, *(QKV if {*QKV} & {*out} else ())}
    axes = [axis for axis in inner.formula.split() if axis in own]
    merged = out[0] if len(out) == 1 else f"({' '.join(out)})"
    return kernel, row(
        f"{inner.name}/bias : {' '.join(axes)}",
        f"{outer.name}.bias{bias} : {merged}",
        Row if bias else Filled,
    )


def norm(
    flax: str, torch: str, bias: str = "", words: str = "weight bias", absent: str = ""
) -> tuple[Row, ...]:
    """The rows of scale and shift of the norm `flax`, such as `blocks/norm1` or `final_norm`.

    `absent` is "?" where a file may lack both tensors; `bias` is that of `linear`.
    """
    layer = "layer " if flax.startswith("blocks/") else ""
    scale, shift = words.split()
    kernel = row(f"{flax}/scale : {layer}d", f"{torch}.{scale}{absent} : d")
    if bias == "no":
        return (kernel,)
    return (
        kernel,
        row(
            f"{flax}/bias : {layer}d",
            f"{torch}.{shift}{absent or bias} : d",
            Row if absent or bias else Filled,
        ),
    )


def embeddings(token: str, positions: str) -> tuple[Row, ...]:
    """The rows of the token embedding `token` and the position table `positions`."""
    return (
        row(EMBEDDING.text, f"{token}.weight : v d"),
        row(f"{POSITIONS} : t d", f"{positions} : t d"),
    )

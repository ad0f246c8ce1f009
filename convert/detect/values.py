"""Evidence in the values of tensors: tied heads, sinusoids, forms of masks, norms never applied.

Independent of files: tensors come from a function that reads them by name.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jaxgpt.model.position_spec import alibi_slopes
from jaxgpt.model.positions import sinusoids

from ..files.safefile import bits
from ..rows.axes import Sizes
from ..rows.buffers import form_of
from ..rows.dialect import Dialect, is_ignored
from ..rows.kinds import POSITIONS, SLOPES, Alias, Buffer, Kind, Row, Scaled
from ..rows.packed import pack_all
from ..rows.scaled import with_bits

Read = Callable[[str], np.ndarray]
# Sinusoids computed in float32 are off by 3e-4 at position 5,000. Training moves a table further.
SINUSOID = 1e-3
SLOPE = 1e-2  # as bfloat16 rounds them
QKV_BIAS = "only qkv biased"  # a mark of Qwen2 among the classes with Llama's names


@dataclass(frozen=True)
class Evidence:
    """The results of reading the values of one file."""

    dialect: Dialect  # every Alias resolved to a Row, without ignored tensors
    read: dict[str, Any] = field(default_factory=dict)  # fields that the values show
    problems: list[str] = field(default_factory=list)
    hints: dict[str, str] = field(default_factory=dict)  # on fields that values make doubtful
    marks: frozenset[str] = frozenset()  # what tells twin dialects apart: `Dialect.told_by`


def weigh(dialect: Dialect, sizes: Sizes, read: Read) -> Evidence:
    """Collect the evidence on `dialect`, settled for the file that `read` reads by tensor name."""
    rows: list[Kind] = []
    evidence = Evidence(dialect)
    marks = {QKV_BIAS} if _has_only_the_bias_of_qkv(dialect) else set()
    for row in dialect.rows:
        if is_ignored(row):
            continue
        match row:
            case Alias():
                if not _is_copy(row, dialect, read):
                    if row.is_copy:
                        evidence.problems.append(_two_embeddings(row, dialect))
                    marks.add("untied")
                    row = Row(row.own, row.torch)
                else:
                    row = Row(row.of, row.torch)
            case Buffer() if row.form == SLOPES:
                row, problem = _slopes(row, dialect, sizes, read)
                evidence.problems.extend(problem)
                evidence.read.update(positions="alibi", positions_stored=False)
            case Buffer() if not row.is_table:
                marks.add("mask")
                row, problem = _mask(row, dialect, sizes, read)
                evidence.problems.extend(problem)
            case Scaled():
                row = with_bits(row, read(row.torch.view().name))
                evidence.read.update(positions="learned", positions_stored=False)
            case Row(flax) if flax.name == POSITIONS:
                layout = dialect.unsaid.get("sinusoidal_layout", "interleaved")
                evidence.read.update(_positions(row, read, layout))
        rows.append(row)
    if _untouched(dialect, read):
        evidence.hints["final_norm"] = (
            "the final norm holds only ones and zeros: was it ever applied? (final_norm=unused)"
        )
    if rows_of(dialect, "blocks/norm1/") and not rows_of(dialect, "blocks/norm2/"):
        evidence.hints["residual"] = (
            "its blocks have one norm each, so attention and MLP are assumed to be computed in "
            "parallel from its output; if the class computes them one after the other, it has no "
            "counterpart here"
        )
    if _around_zero(dialect, read):
        evidence.hints["norm_unit_offset"] = (
            "the weights of its norms lie around 0, as in a class such as Gemma, which multiplies "
            "by 1 + weight (norm_unit_offset=true) and differs in other fields too: is it that "
            "class? (--dialect gemma)"
        )
    return replace(evidence, dialect=replace(dialect, rows=tuple(rows)), marks=frozenset(marks))


def _has_only_the_bias_of_qkv(dialect: Dialect) -> bool:
    """Whether queries, keys and values have a bias, and the output of attention has none."""
    paths = {row.flax.name for row in dialect.rows if isinstance(row, Row)}
    return "blocks/attn/qkv/bias" in paths and "blocks/attn/out/bias" not in paths


def _two_embeddings(row: Alias, dialect: Dialect) -> str:
    """The problem of a copy of an embedding that has other values."""
    copy, original = row.torch.view().name, rows_of(dialect, row.of.name)[0].torch.view().name
    return (
        f"{copy} and {original} are the same embedding in classes that have both, but their values "
        f"differ: remove {copy} from the file if your class looks ids up in {original}, and "
        f"otherwise {original}"
    )


def _is_copy(row: Alias, dialect: Dialect, read: Read) -> bool:
    """Whether the tensor of an alias has the bits of the other one."""
    original = rows_of(dialect, row.of.name)[0]
    return same_bits(read(original.torch.view().name), read(row.torch.view().name))


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays have the same dtype and the same bits."""
    return one.dtype == other.dtype and np.array_equal(bits(one), bits(other))


def _mask(row: Buffer, dialect: Dialect, sizes: Sizes, read: Read) -> tuple[Buffer, list[str]]:
    """The row with the form and dtype of the file's masks, and problems with their values."""
    view = row.torch.view(dialect.spelling)
    seen: dict[tuple[str, str], str] = {}
    for place in view.places(sizes):
        array = read(view.at(place))
        seen.setdefault((form_of(array), str(array.dtype)), view.at(place))
    form, dtype = next(iter(seen))
    problems = [f"{name} is no causal mask" for (form, _), name in seen.items() if not form]
    if len(seen) > 1:
        problems.append(f"{' and '.join(seen.values())} are not the same mask")
    return replace(row, form=form, dtype=dtype, written=True), problems


def _slopes(row: Buffer, dialect: Dialect, sizes: Sizes, read: Read) -> tuple[Buffer, list[str]]:
    """The row with the shape and bits of the file's slopes, and problems with their values."""
    view = row.torch.view(dialect.spelling)
    arrays = {view.at(place): read(view.at(place)) for place in view.places(sizes)}
    first = next(iter(arrays.values()))
    usual = alibi_slopes(first.size)
    problems = [
        f"{name} has other slopes than those of ALiBi for {first.size} heads, which begin with "
        f"{', '.join(f'{n:.4g}' for n in usual[:3])}"
        for name, array in arrays.items()
        if not np.allclose(array.astype(np.float64).ravel(), usual, rtol=SLOPE)
    ]
    bits = pack_all(arrays.values())
    row = replace(row, dtype=str(first.dtype), shape=first.shape, bits=bits, written=True)
    return row, problems


def _positions(row: Row, read: Read, layout: str) -> dict[str, Any]:
    """The fields that the values of the position table show; `layout` is that of the class."""
    table = read(row.torch.view().name).astype(np.float64)
    table = table.reshape(max(table.shape[:-1]), table.shape[-1])
    fixed = (sinusoids(*table.shape, order) for order in {"interleaved", layout})
    if any(np.abs(table - each).max() < SINUSOID for each in fixed):
        return {"positions": "sinusoidal", "positions_stored": True}
    return {"positions": "learned", "positions_stored": False}


def _untouched(dialect: Dialect, read: Read) -> bool:
    """Whether the final norm has its initial values, which training changes if it is applied."""
    norms = {row.flax.name: read(row.torch.view().name) for row in rows_of(dialect, "final_norm/")}
    return bool(norms) and all(
        (value == (1 if path.endswith("scale") else 0)).all() for path, value in norms.items()
    )


def _around_zero(dialect: Dialect, read: Read) -> bool:
    """Whether the scales of the norms lie around 0, as in a class that adds 1 to them.

    In other classes they start at 1, and training moves them up or down from there.
    """
    if rows_of(dialect, "final_norm/bias"):
        return False
    views = [row.torch.view(dialect.spelling) for row in rows_of(dialect, "final_norm/scale")]
    scales = [read(view.name).astype(np.float32) for view in views]
    return any((scale < 0).mean() > 0.2 and abs(np.median(scale)) < 0.5 for scale in scales)


def rows_of(dialect: Dialect, start: str) -> list[Row]:
    """The rows whose Flax name begins with `start`."""
    return [row for row in dialect.rows if isinstance(row, Row) and row.flax.name.startswith(start)]

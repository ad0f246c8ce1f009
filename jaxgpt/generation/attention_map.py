"""Attention of one layer as a table for terminals, from the token of each row to those of columns.

Shapes: L layers, N heads, T tokens of the rows, S tokens of the columns.
"""

from typing import NamedTuple

import numpy as np
from rich.cells import cell_len
from rich.console import Group
from rich.table import Column, Table
from rich.text import Text as Cell

from jaxgpt.errors import UserError

PADDING = 1  # on both sides of a column
SHADES = ("grey23", "grey42", "yellow4", "gold3", "orange1")


class AttentionMap(NamedTuple):
    """The weights of all heads, and the names of the tokens."""

    weights_lnts: np.ndarray
    rows: list[str]
    columns: list[str]
    visible_ts: np.ndarray  # False where a token cannot attend, and no number is shown
    whole: str  # where all columns can be seen, if they do not fit
    name: str = ""


def map_table(seen: AttentionMap, layer: int, head: int | None, width: int | None = None) -> Group:
    """Table of `seen` in hundredths, for `head` of `layer` or the mean of all heads.

    If the table would be wider than `width`, it leaves out the first columns, and the rows that
    would then be empty, and its title mentions this.
    """
    layers, heads, _, length = seen.weights_lnts.shape
    for name, value, count in (("layer", layer, layers), ("head", head or 0, heads)):
        if not -count <= value < count:
            raise UserError(f"There is no {name} {value}: they are 0 to {count - 1}.")
    weights = seen.weights_lnts[layer]
    weights = weights.mean(axis=0) if head is None else weights[head]
    shares = np.rint(100 * weights).astype(int)
    first = 0 if width is None else _first_that_fits(seen, shares, width)
    whose = "mean of all heads" if head is None else f"head {head}"
    title = f"{seen.name}layer {layer % layers}, {whose}, in hundredths"
    if first:
        title += f"\nThe last {length - first} of {length} tokens: {seen.whole} shows all."
    names = (Column(Cell(name)) for name in seen.columns[first:])
    table = Table("", *names, box=None, padding=(0, PADDING))
    for row in np.flatnonzero(seen.visible_ts[:, first:].any(axis=1)).tolist():
        columns = first + np.flatnonzero(seen.visible_ts[row, first:])
        cells = [Cell(str(share), shade(share)) for share in shares[row, columns].tolist()]
        table.add_row(Cell(seen.rows[row]), *cells)
    return Group(Cell(title), table)


def _first_that_fits(seen: AttentionMap, shares: np.ndarray, width: int) -> int:
    """The first column to show so that it and all later ones fit in `width`."""
    widths = [
        max(cell_len(name), len(str(share)))
        for name, share in zip(seen.columns, shares.max(axis=0), strict=True)
    ]
    left = width - max(map(cell_len, seen.rows)) - 2 * PADDING
    for column in reversed(range(len(widths))):
        left -= widths[column] + 2 * PADDING
        if left < 0:
            return min(column + 1, len(widths) - 1)
    return 0


def shade(hundredths: int) -> str:
    """The colour of a cell; everything from 48 hundredths on has the brightest."""
    return SHADES[min(len(SHADES) - 1, hundredths * len(SHADES) // 60)]

"""The part of files: a damaged one is refused in one paragraph, or read as another reader reads it."""

import tempfile
from pathlib import Path

from tests.torture.kinds import BY_NAME
from tests.torture.parts import Orders
from tests.torture.runner import Line, Torture

LINES = tuple(BY_NAME)


def run(orders: Orders) -> list[Line]:
    """Damage files as `orders` say; a line of the table for each kind of file."""
    with (
        tempfile.TemporaryDirectory(prefix="torture-") as folder,
        Torture(Path(folder), orders.seed, orders.keep) as torture,
    ):
        return orders.carry_out(
            [Line(name) for name in LINES],
            lambda line, number: torture.run(BY_NAME[line.kind], line, number),
            lambda line: torture.partner(BY_NAME[line.kind]),
        )

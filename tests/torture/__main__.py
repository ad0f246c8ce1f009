"""Damage files, kill commands, disturb processes and disks, and print how each case ended.

    python -m tests.torture [--seconds N | --cases N] [--seed S] [--only LINE] [--case N] [--json FILE] [--keep DIR]

Each part says in the docstring of its module what it requires. Anything else is a failure, and
makes the exit code 1. For each failure the options that reproduce it are printed. The default seed
is the day of the year.
"""

import argparse
import datetime
import itertools
import json
import sys
from pathlib import Path

from tests import conftest  # noqa: F401  # which sets the environment of jax
from tests.torture import disks, files, kills, numbers, processes, supply
from tests.torture.parts import Orders
from tests.torture.runner import Line
from tests.torture.worker import FAILED

# Each part has LINES, the names of the lines of its table, and run(orders).
PARTS = {
    "files": files,
    "kills": kills,
    "processes": processes,
    "disks": disks,
    "numbers": numbers,
    "supply": supply,
}
NAMES = [*PARTS, *(name for part in PARTS.values() for name in part.LINES)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=180, help="for all parts together (180)")
    parser.add_argument("--cases", type=int, help="of each line, instead of --seconds")
    parser.add_argument("--seed", type=int, default=datetime.date.today().timetuple().tm_yday)
    parser.add_argument(
        "--only",
        choices=NAMES,
        default="",
        metavar="PART or LINE",
        help=", ".join(NAMES).replace("%", "%%"),
    )
    parser.add_argument("--case", type=int, help="run only this case of --only LINE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table to FILE")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="copy the files of failed cases to DIR"
    )
    options = parser.parse_args()
    parts = [part for name, part in PARTS.items() if options.only in ("", name, *part.LINES)]
    orders = Orders(
        options.seed,
        options.cases,
        options.seconds / len(parts),
        "" if options.only in PARTS else options.only,
        options.case,
        options.keep,
    )
    tables = [part.run(orders) for part in parts]
    lines = list(itertools.chain(*tables))
    if options.case is None:
        print(f"Seed {options.seed}.", *map(table, tables), sep="\n")
    for failure in itertools.chain(*(line.failures for line in lines)):
        print(failure)
    if options.json:
        options.json.write_text(json.dumps([vars(line) for line in lines], indent=1) + "\n")
    return any(line.failures for line in lines)


def table(lines: list[Line]) -> str:
    """The table of a part as text."""
    columns = ["failures" if name == FAILED else name for name in lines[0].counts]
    rows = [(line.kind, line.cases, *line.counts.values()) for line in lines]
    total = (sum(column) for column in zip(*[row[1:] for row in rows], strict=True))
    rows = [("", "cases", *columns), *rows, ("all", *total)]
    return "\n".join(f"{row[0]:28}" + "".join(f"{cell:>12}" for cell in row[1:]) for row in rows)


if __name__ == "__main__":
    sys.exit(main())

"""Damage every kind of file that the project reads, and print what became of it.

    python -m tests.torture [--seconds N | --cases N] [--seed S] [--only KIND] [--case N] [--json FILE] [--keep DIR]

A damaged file must be refused in one paragraph, or be read as an independent reader reads it. All
else is a failure: another exception, a crash, 20 seconds, memory beyond 4 times the files and 1 GB,
a file that is written elsewhere, a connection, a program that is run. The exit code is then 1.

The seed is the day of the year by default. A failure prints the words that make it again.
"""

import argparse
import datetime
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.torture.kinds import BY_NAME, KINDS, Kind
from tests.torture.runner import Line, Torture
from tests.torture.worker import EQUAL, FAILED, REFUSED

COLUMNS = ("cases", REFUSED, EQUAL, "failures")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="for all kinds together (60)")
    parser.add_argument("--cases", type=int, help="of each kind, instead of a time")
    parser.add_argument("--seed", type=int, default=datetime.date.today().timetuple().tm_yday)
    parser.add_argument("--only", choices=BY_NAME, metavar="KIND", help=", ".join(BY_NAME))
    parser.add_argument("--case", type=int, help="the number of one case of --only KIND")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the files that failed")
    options = parser.parse_args()
    kinds = [BY_NAME[options.only]] if options.only else list(KINDS)
    with (
        tempfile.TemporaryDirectory(prefix="torture-") as folder,
        Torture(Path(folder), options.seed, options.keep) as torture,
    ):
        if options.case is not None:
            print(torture.run(kinds[0], line := Line(kinds[0].name), options.case))
            return bool(line.counts[FAILED])
        lines = [_run(torture, kind, options.cases, options.seconds / len(kinds)) for kind in kinds]
    print(f"Seed {options.seed}.\n{table(lines)}")
    if options.json:
        options.json.write_text(json.dumps([vars(line) for line in lines], indent=1) + "\n")
    return any(line.failures for line in lines)


def _run(torture: Torture, kind: Kind, cases: int | None, seconds: float) -> Line:
    """The line of `kind` after `cases` damaged files, or after `seconds` if it is None."""
    line, end = Line(kind.name), time.monotonic() + seconds
    torture.partner(kind)  # what takes long to make is not counted
    torture.run(kind, line, 0)
    while line.cases <= cases if cases is not None else time.monotonic() < end:
        torture.run(kind, line, line.cases)
    return line


def table(lines: list[Line]) -> str:
    """The table as text, with the failures below it."""
    rows = [("kind", *COLUMNS), *((line.kind, line.cases, *line.counts.values()) for line in lines)]
    rows.append(
        ("all", *(sum(column) for column in zip(*[row[1:] for row in rows[1:]], strict=True)))
    )
    text = "\n".join(f"{row[0]:28}" + "".join(f"{cell:>12}" for cell in row[1:]) for row in rows)
    return "\n".join([text, *(failure for line in lines for failure in line.failures)])


if __name__ == "__main__":
    sys.exit(main())

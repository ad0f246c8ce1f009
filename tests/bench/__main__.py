"""All races in one table: training, generation, batches and saving against the fastest that PyTorch has here, and
conversion against the least that it can take.

    python -m tests.bench [ROUNDS] [--only TEXT] [--json FILE]

Every framework, and every mode of PyTorch, has a process of its own. Rounds alternate, so that a machine that slows
down slows all of them; a row has the median and the range of the rounds' ratios, against the float32 mode whose median
is best, and against the best of any dtype. Training also says its share of the greatest rate of products that either
library reaches here, and generation how many bytes of weights it reads each second, beside the rate of a copy.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from tests.bench import conversion, table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rounds", nargs="?", type=int, default=5, metavar="ROUNDS")
    parser.add_argument("--only", default="", metavar="TEXT", help="work whose name has TEXT in it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    given = parser.parse_args()
    print(
        "| work | tokens/s or bytes/s | of float32 PyTorch | of any PyTorch | |\n|---|---|---|---|---|"
    )
    rows: list[table.Row | conversion.Line] = []
    for name, run in table.races(given.rounds).items():
        if given.only in name:
            rows.append(run())
            print(rows[-1], flush=True)
    if given.only in "conversion":
        print("\n| conversion | seconds (range) | least | ratio |\n|---|---|---|---|")
        for line in conversion.measured(given.rounds):
            rows.append(line)
            print(line, flush=True)
    if given.json:
        figures = [dataclasses.asdict(row) for row in rows]
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Run the contest named on each line of stdin, in the tree that PYTHONPATH names, and print the seconds it took.

`tests.bench.against` starts one of these in each of two trees; what it calls must exist in both.
"""

import sys
import time
from collections.abc import Callable

from tests.bench import generation, training


def contests() -> dict[str, Callable[[], object]]:
    """The contests by name, each compiled and ready to run."""
    ready = {f"training, {name}": run for name, run in training.ours().items()}
    for name, (_, ours, _) in generation.contestants().items():
        ready[f"generation, {name}"] = ours
    for run in ready.values():
        run()
    return ready


def main() -> None:
    runs = contests()
    print(*runs, sep="\t", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        runs[line.rstrip("\n")]()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()

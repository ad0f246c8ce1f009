"""Speed of this tree against another one, such as a git worktree of an older commit.

    python -m tests.bench.against TREE [--rounds ROUNDS] [--only TEXT]

Both trees run the programs of `tests.bench.training` and `tests.bench.generation` in processes that stay, and convert a
file of the reference GPT at its released sizes in processes of their own. Rounds alternate, so a machine that slows
down slows both; medians and ranges of the ratios of their speeds are printed, above 1 where this tree is faster.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from convert.reference import GPT
from tests.helpers import PROGRAMS

CONVERSION = "to-flax"
HERE = Path(__file__).parents[2]


class Tree:
    """A tree's processes: one that stays for its contests, and a new one for each conversion."""

    def __init__(self, root: Path, file: Path):
        self.root, self.file = root, file
        self.environment = {**os.environ, "PYTHONPATH": str(root)}
        # Modules are compiled once, as they are where somebody installed them.
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.racer = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAMS / "racer.py")],
            cwd=root,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def names(self) -> list[str]:
        """The contests' names, once all of them are compiled."""
        assert self.racer.stdout
        return self.racer.stdout.readline().rstrip("\n").split("\t")

    def race(self, name: str) -> float:
        """The seconds that the contest `name` took."""
        if name == CONVERSION:
            return self.convert()
        assert self.racer.stdin
        assert self.racer.stdout
        self.racer.stdin.write(f"{name}\n")
        self.racer.stdin.flush()
        return float(self.racer.stdout.readline())

    def convert(self) -> float:
        """The seconds that one conversion took, from the start of its process to its end."""
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "convert", "to-flax", str(self.file), f"{folder}/out"]
            start = time.perf_counter()
            subprocess.run(
                [*command, "--set", "num_heads=6"],
                cwd=self.root,
                env=self.environment,
                check=True,
                capture_output=True,
            )
            return time.perf_counter() - start


def compare(name: str, before: Tree, now: Tree, rounds: int) -> str:
    """One line with the ratio of the speeds of two trees over `rounds` alternations."""
    ratios = []
    for turn in range(rounds):
        trees = (now, before) if turn % 2 else (before, now)
        seconds = {tree.root: tree.race(name) for tree in trees}
        ratios.append(seconds[before.root] / seconds[now.root])
    return f"{name:52} {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tree", type=Path, metavar="TREE")
    parser.add_argument("--rounds", type=int, default=15, help="default: 15")
    parser.add_argument("--only", default="", metavar="TEXT", help="the contests with TEXT in them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "weights.pt")
        torch.save(GPT(104, 128, 252, 6, 6).state_dict(), file)
        trees = Tree(arguments.tree.resolve(), file), Tree(HERE, file)
        names = [tree.names() for tree in trees]
        for name in (*names[0], CONVERSION):
            if arguments.only in name and name in (*names[1], CONVERSION):
                print(compare(name, *trees, arguments.rounds), flush=True)
        for tree in trees:
            tree.racer.terminate()


if __name__ == "__main__":
    main()

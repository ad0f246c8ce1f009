"""Benchmarks, each run on its own: python -m tests.bench.NAME."""

import argparse


def rounds(about: str | None, usual: int = 7) -> int:
    """How many rounds the command line asks for; --help prints `about`, the module's docstring."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "rounds", nargs="?", type=int, default=usual, metavar="ROUNDS", help=f"default: {usual}"
    )
    given: int = parser.parse_args().rounds
    if given < 1:
        parser.error(f"ROUNDS must be 1 or more, but is {given}")
    return given

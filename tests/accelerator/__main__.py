"""Measure everything that only an accelerator can show, and write a page of it to a folder.

    python -m tests.accelerator [--out DIR] [--text TEXT] [--toy]

Without an accelerator, or with --toy, everything is done at toy size, as a test of the script; what
needs the device is then marked as not measured. The exit code is 1 if a section failed.
"""

import argparse
import signal
import sys
from pathlib import Path

from tests.accelerator.runner import run_all


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/accelerator"), metavar="DIR")
    parser.add_argument("--text", default="python-docs", help="the text of the CPU recipe")
    parser.add_argument("--toy", action="store_true", help="toy size, whatever the device is")
    arguments = parser.parse_args()
    # As Ctrl-C does, so that the process of the section ends too: it has the device.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return run_all(arguments.out, arguments.text, "toy" if arguments.toy else "")


if __name__ == "__main__":
    sys.exit(main())

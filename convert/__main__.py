"""The command line, jaxgpt-convert: each command is a file in `commands`.

Heavy imports wait inside the commands, so that --help answers at once.
"""

import sys
from collections.abc import Callable
from typing import Any

from jaxgpt.commands.shell import run

from .commands.inspect import inspect
from .commands.probe import probe
from .commands.to_flax import to_flax
from .commands.to_torch import to_torch
from .commands.verify import verify

COMMANDS: dict[str, Callable[..., Any]] = {
    "inspect": inspect,
    "to-flax": to_flax,
    "to-torch": to_torch,
    "verify": verify,
    "probe": probe,
}


def main() -> None:
    about = "Convert checkpoints between PyTorch and Flax, and prove that nothing changed."
    run("jaxgpt-convert", about, COMMANDS, sys.argv[1:])


if __name__ == "__main__":
    main()

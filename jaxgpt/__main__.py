"""The command line, jaxgpt: the names of the commands and the functions that run them."""

import importlib
import sys
from collections.abc import Callable
from typing import Any

from jaxgpt.commands.evaluate import evaluate
from jaxgpt.commands.export import export
from jaxgpt.commands.look import look
from jaxgpt.commands.options import require_settings
from jaxgpt.commands.plan import plan
from jaxgpt.commands.prepare import prepare
from jaxgpt.commands.runs import runs
from jaxgpt.commands.sample import sample
from jaxgpt.commands.serve import serve
from jaxgpt.commands.shell import run
from jaxgpt.commands.train import train

ABOUT = "Train Transformers in Flax, sample from them, look inside, and export them."
COMMANDS: dict[str, Callable[..., Any]] = {
    "prepare": prepare,
    "train": train,
    "plan": plan,
    "eval": evaluate,
    "sample": sample,
    "serve": serve,
    "look": look,
    "export": export,
    "runs": runs,
}


def main() -> None:
    run("jaxgpt", ABOUT, COMMANDS, sys.argv[1:], require_settings)


def convert_main() -> None:
    """The command jaxgpt-convert, also where a file named convert.py hides its package."""
    from jaxgpt import convert

    importlib.import_module(f"{convert.__name__}.__main__").main()


if __name__ == "__main__":
    main()

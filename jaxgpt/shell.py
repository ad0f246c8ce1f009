"""What every command has in common: how it is called, how it ends, what moves while one waits. Knows no command."""

import contextlib
import re
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

import tyro

from jaxgpt.config import Failure, UserError


def console() -> Any:
    """For tables: as wide as the terminal, and wide enough elsewhere."""
    from rich.console import Console

    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=200)


def working(what: str) -> contextlib.AbstractContextManager[Any]:
    """Something that moves, for people who wait at a terminal."""
    from rich.console import Console
    from rich.markup import escape

    found = Console(stderr=True)
    return found.status(escape(what)) if found.is_terminal else contextlib.nullcontext()


def run(prog: str, description: str, commands: Mapping[str, Callable[..., Any]], arguments: list[str]) -> None:
    """Exit codes: what the command returns (0 for None), 2 where the user's input is wrong, 128 and a signal's number
    where one stopped it, 1 for anything else."""
    try:
        code = tyro.extras.subcommand_cli_from_dict(
            dict(commands),
            prog=prog,
            description=description,
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except UserError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        code = 2
    except Failure as failure:
        print(f"{prog}: {failure}", file=sys.stderr)
        code = 1
    except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        print(f"{prog}: {f'{error.filename}: {error.strerror}' if error.filename else error}.", file=sys.stderr)
        code = 2
    except OSError as error:
        print(f"{prog}: {error}.", file=sys.stderr)
        code = 1
    except KeyboardInterrupt as stop:
        code = 128 + (stop.args[0] if stop.args else signal.SIGINT)
    sys.exit(code or 0)


def as_assignments(arguments: list[str]) -> list[str]:
    """--train.steps 500 and --train.steps=500 as train.steps=500: what a section may hold, the config knows."""
    words = iter(arguments)
    return [
        (word[2:] if "=" in word else f"{word[2:]}={next(words, '')}") if re.match(r"--\w+\.", word) else word
        for word in words
    ]

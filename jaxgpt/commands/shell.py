"""What every command has in common: how it is called, how it ends, what moves while one waits. Knows no command."""

import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import tyro

from jaxgpt import __version__
from jaxgpt.errors import Failure, UserError, instead_of, system_error
from jaxgpt.system.signals import signals
from jaxgpt.system.stages import Stage, silent

BROKEN_PIPE = 141  # as shells say it of a program that SIGPIPE ended


def console() -> Any:
    """For tables: as wide as the terminal, and wide enough elsewhere."""
    from rich.console import Console

    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=200)


@contextlib.contextmanager
def working(what: str) -> Iterator[Stage]:
    """Something that moves, for people who wait at a terminal; a bar where it is known how much there is."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    found = Console(stderr=True)
    if not found.is_terminal:
        yield silent
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=found, transient=True) as progress:
        task = progress.add_task(escape(what), total=None)

        def stage(name: str, total: int) -> Callable[[int], None]:
            progress.reset(task, total=total or None, description=escape(f"{what}: {name}"))
            return lambda done: progress.advance(task, done)

        yield stage


def run(
    prog: str, description: str, commands: Mapping[str, Callable[..., Any]], arguments: list[str]
) -> None:
    """Exit codes: what the command returns (0 for None), 2 where the user's input is wrong, 128 and a signal's number
    where one stopped it, 1 for anything else."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="replace"
        )  # a terminal that cannot show a character is no reason to stop
    try:
        if arguments == ["--version"]:
            print(f"{prog} {__version__}")
            sys.exit(0)
        asked = next(iter(arguments), "--help")
        if not asked.startswith("-") and asked not in commands:
            raise UserError(f"There is no command {asked}. {instead_of(asked, commands)}")
        with signals():
            code = tyro.extras.subcommand_cli_from_dict(
                dict(commands),
                prog=prog,
                description=description,
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
        sys.stdout.flush()
    except UserError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        code = 2
    except Failure as failure:
        print(f"{prog}: {failure}", file=sys.stderr)
        code = 1
    except BrokenPipeError:  # whoever read it has enough, as head has after some lines
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # for what is still to be flushed
        code = BROKEN_PIPE
    except OSError as error:
        told = system_error(error)
        print(f"{prog}: {told}", file=sys.stderr)
        code = 2 if isinstance(told, UserError) else 1
    except KeyboardInterrupt as stop:
        _leave_at_once(128 + (stop.args[0] if stop.args else signal.SIGINT))
    sys.exit(code or 0)


def _leave_at_once(code: int) -> NoReturn:
    """End the process without the interpreter's teardown, once a signal has stopped the command.

    XLA may still compile in threads of its own, and crashes in the teardown. What commands must do at their end they
    do in `finally` and `with`, which an exception has passed through by now.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def as_assignments(arguments: list[str]) -> list[str]:
    """Write --train.steps 500 and --train.steps=500 as --set train.steps=500."""
    words, written = iter(arguments), []
    for word in words:
        if not re.match(r"--\w+\.", word):
            written.append(word)
            continue
        name = word.removeprefix("--")
        written += ["--set", name if "=" in name else f"{name}={next(words, '')}"]
    return written

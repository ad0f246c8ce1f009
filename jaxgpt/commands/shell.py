"""The call of a command, and its exit code."""

import contextlib
import gc
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import tyro

from jaxgpt import __version__
from jaxgpt.errors import Failure, UserError, instead_of, printable, system_error
from jaxgpt.system.signals import signals

BROKEN_PIPE = 141  # the exit code that shells report for a program killed by SIGPIPE
# New objects between two garbage collections. Importing jax and torch makes half a million objects
# that stay; with Python's default of 700, collecting takes a tenth of a command's start-up.
GC_THRESHOLD = 10_000
PIPE_WIDTH = 200  # columns of a table that no terminal limits

Commands = Mapping[str, Callable[..., Any]]
Check = Callable[[Sequence[str]], None]


def console() -> Any:
    """A console for tables: as wide as the terminal, and wide enough where there is none."""
    from rich.console import Console

    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def run(
    program: str,
    description: str,
    commands: Commands,
    words: Sequence[str],
    check: Check = lambda words: None,
) -> NoReturn:
    """Run the command that `words` name, after `check` of them, and exit.

    The exit code is what the command returns (0 for None), 2 if the user's input is wrong, 128 plus
    the number of the signal that stopped it, and 1 for anything else.
    """
    gc.set_threshold(GC_THRESHOLD)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started the program
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a character is not a reason to stop.
        sys.stdout.reconfigure(errors="replace")
    try:
        _require_command(words, commands)
        check(words)
        code = _call(program, description, commands, words)
        sys.stdout.flush()
    except (UserError, Failure) as error:
        code = _report(program, error)
    except BrokenPipeError:  # the reader has closed the pipe, as head does
        code = BROKEN_PIPE
    except OSError as error:
        code = _report(program, system_error(error))
    except KeyboardInterrupt as stop:
        _leave_at_once(128 + (stop.args[0] if stop.args else signal.SIGINT))
    try:
        sys.stdout.flush()
    except OSError:  # discard the rest, or the interpreter would fail at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _require_command(words: Sequence[str], commands: Commands) -> None:
    """Require that the first of `words`, unless it is an option, is one of `commands`."""
    name = next(iter(words), "--help")
    if not name.startswith("-") and name not in commands:
        raise UserError(f"There is no command {name}. {instead_of(name, commands)}")


def _call(program: str, description: str, commands: Commands, words: Sequence[str]) -> int:
    """Run the command that `words` name and return its exit code."""
    if list(words) == ["--version"]:
        print(f"{program} {__version__}")
        return 0
    for command in commands.values():
        command.__doc__ = _unwrapped(command.__doc__ or "")
    with signals():
        code = tyro.extras.subcommand_cli_from_dict(
            dict(commands),
            prog=program,
            description=description,
            args=list(words),
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    return code or 0


def _unwrapped(docstring: str) -> str:
    """`docstring` with each argument on one line: tyro wraps lines, but keeps line breaks too."""
    return re.sub(r"\n {9,}", " ", docstring)


def _report(program: str, error: UserError | Failure) -> int:
    """Print `error` and return its exit code."""
    with contextlib.suppress(OSError):  # the terminal was closed
        print(f"{program}: {printable(str(error))}", file=sys.stderr)
    return 2 if isinstance(error, UserError) else 1


def _leave_at_once(code: int) -> NoReturn:
    """End the process without the interpreter's teardown, once a signal has stopped the command.

    XLA may still be compiling in its own threads, and crashes in the teardown. What a command must
    do at its end is in `finally` and `with` blocks, which the exception has already left.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)

"""The command line: jaxgpt. Heavy imports wait inside the commands, so that --help answers at once."""

import contextlib
import dataclasses
import re
import signal
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxgpt.config import Config, Failure, UserError
from jaxgpt.settings import describe, read_settings

Directory = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]


def prepare(
    text: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")],
    /,
    out: Path,
    tokenizer: str = "char",
    vocab_size: int = 8192,
    field: str = "text",
    val: float = 0.1,
    errors: str = "strict",
) -> None:
    """Turn text into token files to train on.

    Args:
        text: Text files, folders, patterns, - for standard input, .jsonl or .parquet files, hf:NAME for a data set of
            the datasets library, nanoGPT's train.bin and val.bin, or python-docs, which comes with Python.
        out: The directory to write; must not exist, or be empty.
        tokenizer: char, byte, bpe, or a file or folder that holds a tokenizer.
        vocab_size: How many ids a new bpe tokenizer gets.
        field: The field of JSONL, parquet and data sets that holds the text.
        val: The part of the text, from its end, that is kept for validation.
        errors: What happens where text is not UTF-8: strict stops, replace puts a replacement character.
    """
    from jaxgpt.prepare import prepare as run_prepare

    made = run_prepare(text, out, tokenizer=tokenizer, vocab_size=vocab_size, field=field, val=val, errors=errors)
    print(f"{out}: {len(made.train):,} tokens to train on, {len(made.val):,} to validate, {made.vocab_size} ids")


def train(
    config: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG.toml")],
    changes: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="--SECTION.FIELD VALUE")] = (),
    /,
    init: str = "",
) -> None:
    """Train a model as a config says; single settings may be given in other words.

    Args:
        config: A TOML file with the sections model, data, optim, train, mesh and run; see configs/.
        changes: Replaces what the file says, for instance --train.steps 500; jaxgpt settings lists all.
        init: A model directory to start from, instead of random weights.
    """
    given = read_settings(config, [*changes, *([f"run.init={init}"] if init else [])])
    from jaxgpt.progress import watching
    from jaxgpt.train import train as run_train

    with watching() as (say, passing):
        run_train(given, str(config), say, passing)


def evaluate(directory: Directory, /, data: Path | None = None, batch_size: int = 32) -> None:
    """Loss, perplexity and bits per byte over the whole validation split.

    Args:
        directory: A run, or any model directory.
        data: A prepared directory; by default the one that the model was trained on.
        batch_size: How many windows are computed at a time.
    """
    from jaxgpt.evaluate import evaluate as run_evaluate

    with working(f"evaluating {directory}"):
        found = run_evaluate(directory, data, batch_size)
    print(found)


def list_runs(directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")] = Path("runs"), /) -> None:
    """List the runs in a directory: their model, how far they are, their losses, whether their files are whole.

    Args:
        directory: Where to look; runs lie anywhere in it.
    """
    from rich.console import Console
    from rich.table import Table

    from jaxgpt import runs

    with working(f"checking the files in {directory}"):
        found = [runs.summary(run) for run in runs.find(directory)]
    table = Table("run", "config", "model", "step", "loss", "best val", "size", "state", box=None, pad_edge=False)
    for one in found:
        losses = ["-" if loss is None else f"{loss:.4f}" for loss in (one.loss, one.val_loss)]
        steps, size = f"{one.step}/{one.steps}", f"{one.size / 1e6:,.1f} MB"
        table.add_row(str(one.path), one.origin, one.model, steps, *losses, size, one.state)
    Console(width=None if sys.stdout.isatty() else 200).print(table if found else f"There is no run in {directory}.")


def working(what: str) -> contextlib.AbstractContextManager[Any]:
    """Something that moves, for people who wait at a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    return console.status(what) if console.is_terminal else contextlib.nullcontext()


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
        print(f"{prog}: {error.filename}: {error.strerror}.", file=sys.stderr)
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


def settings() -> None:
    """List every setting of train with its default and what it takes."""
    for section, cls in typing.get_type_hints(Config).items():
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            print(f"--{section}.{field.name} {field.default!r}".ljust(44) + describe(hints[field.name]))


def main() -> None:
    commands: dict[str, Callable[..., Any]] = {
        "prepare": prepare,
        "train": train,
        "eval": evaluate,
        "runs": list_runs,
        "settings": settings,
    }
    run("jaxgpt", "A GPT decoder in Flax: train it, look at it, carry it.", commands, as_assignments(sys.argv[1:]))


if __name__ == "__main__":
    main()

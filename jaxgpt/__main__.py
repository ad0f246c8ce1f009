"""The command line: jaxgpt. Heavy imports wait inside the commands, so that --help answers at once."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxgpt.commands.shell import as_assignments, console, run, working
from jaxgpt.settings import listing, read_settings

ConfigFile = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG.toml")]
OptionalConfig = Annotated[
    Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[CONFIG.toml]")
]
CHANGE = "A setting in place of the file's, for instance --train.steps 500; jaxgpt settings explains all."
Changes = Annotated[
    tuple[str, ...],
    tyro.conf.arg(name="set", metavar="SECTION.FIELD=VALUE, or --SECTION.FIELD VALUE", help=CHANGE),
    tyro.conf.UseAppendAction,
]
UNLIMITED = 10**6  # columns: a pipe has as many as a table takes
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
        tokenizer: char, byte, bpe, or a file or folder that holds a tokenizer, nanoGPT's meta.pkl for
            instance, which is also found beside its train.bin.
        vocab_size: How many ids a new bpe tokenizer gets.
        field: The field of JSONL, parquet and data sets that holds the text.
        val: The part of the text, from its end, that is kept for validation.
        errors: What happens where text is not UTF-8: strict stops, replace puts a replacement character.
    """
    from jaxgpt.data.prepare import prepare as run_prepare

    made = run_prepare(
        text, out, tokenizer=tokenizer, vocab_size=vocab_size, field=field, val=val, errors=errors
    )
    print(
        f"{out}: {len(made.train):,} tokens to train on, {len(made.val):,} to validate, {made.vocab_size} ids"
    )


def train(config: OptionalConfig = None, /, changes: Changes = (), init: str = "") -> None:
    """Train a model from scratch as a config says, or fine-tune the one in a model directory.

    Args:
        config: A TOML file with the sections model, data, optim, train, mesh and run, see configs/. With --init DIR
            none is needed: --data.path TEXT and --run.dir OUT say the rest.
        init: A model directory or a run to start from, instead of random weights.
    """
    given = read_settings(config, [*changes, *([f"run.init={init}"] if init else [])])
    from jaxgpt.training.progress import watching
    from jaxgpt.training.run import train as run_train

    with watching() as (say, passing):
        run_train(given, str(config) if config else None, say, passing)


def plan(config: ConfigFile, /, changes: Changes = (), topology: str = "") -> int:
    """Say what a config would take: memory, arithmetic, traffic and time of its step, compiled for devices that need
    not be there. Exit code 3 if it does not fit.

    Args:
        config: A TOML file, as for train.
        topology: A slice of TPUs or a machine with GPUs, v5e:16x16 or h200:8 for instance; the devices at hand if none
            is given.
    """
    given = read_settings(config, changes)
    from jaxgpt.planning.page import page
    from jaxgpt.planning.plan import plan as run_plan

    name = f"{config.stem} on {topology or 'the devices at hand'}"
    with working(name) as stage:
        found, other = run_plan(given, str(config), topology, stage)
    print(page(found, name, other))
    return 0 if found.fits else 3


def evaluate(directory: Directory, /, data: Path | None = None, batch_size: int = 32) -> None:
    """Loss, perplexity and bits per byte over the whole validation split.

    Args:
        directory: A run, or any model directory.
        data: A prepared directory; by default the one that the model was trained on.
        batch_size: How many windows are computed at a time.
    """
    from jaxgpt.training.evaluate import evaluate as run_evaluate

    with working(f"evaluating {directory}"):
        found = run_evaluate(directory, data, batch_size)
    print(found)


def sample(
    directory: Directory,
    /,
    prompt: str = "",
    prompt_file: Path | None = None,
    tokens: int = 500,
    samples: int = 1,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int = 0,
    stop: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    on_full: Literal["slide", "stop"] = "slide",
    tokenizer: Path | None = None,
    errors: Literal["strict", "skip"] = "strict",
    stats: bool = False,
) -> None:
    """Write text with a model.

    Args:
        directory: A run, or any model directory. Where it has no tokenizer, prompt and text are ids.
        prompt: What the text begins with; - reads standard input.
        prompt_file: The same from a file.
        tokens: How many new tokens to write.
        samples: How many texts.
        temperature: 0 always takes the likeliest token, 1 draws from what the model says.
        top_k: Only so many of the likeliest tokens are drawn from; 0: all.
        top_p: Only the likeliest tokens that together have so much probability.
        min_p: Only tokens with so much of the likeliest one's probability.
        seed: The same seed writes the same text.
        stop: End before this text; may be given several times.
        on_full: Past the model's context, slide goes on with the last part of the text, stop ends.
        tokenizer: A tokenizer.json, a list of characters as JSON, or nanoGPT's meta.pkl, instead of
            the model's own.
        errors: Characters of the prompt that the tokenizer does not know: strict names them, skip leaves them out.
        stats: Say how long it took.
    """
    from jaxgpt.generation.options import SampleOptions
    from jaxgpt.generation.sample import sample as run_sample
    from jaxgpt.generation.text import read_prompt

    options = SampleOptions(
        max_new_tokens=tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        samples=samples,
        on_full=on_full,
    )
    text = read_prompt(prompt, prompt_file)
    speed = run_sample(directory, text, options, tokenizer=tokenizer, errors=errors, stop=stop)
    if stats:
        print(speed, file=sys.stderr)


def look(
    directory: Directory,
    /,
    text: str,
    out: Path | None = None,
    layer: int = -1,
    head: int | None = None,
    top: int = 5,
    tokenizer: Path | None = None,
    errors: Literal["strict", "skip"] = "strict",
) -> None:
    """Show where attention goes in a text, and what the model expected at each token.

    Args:
        directory: A run, or any model directory.
        text: What to look at; ids, where there is no tokenizer.
        out: A picture of every head of every layer to write, attention.png for instance.
        layer: The layer that the table shows; -1 is the last.
        head: Its head; by default the mean of all.
        top: How many of the likeliest tokens to list.
        tokenizer: A tokenizer.json, a list of characters as JSON, or nanoGPT's meta.pkl, instead of
            the model's own.
        errors: Characters that the tokenizer does not know: strict names them, skip leaves them out.
    """
    from jaxgpt.generation import inspect as room

    with working(f"looking into {directory}"):
        seen = room.look(directory, text, tokenizer, errors, out)
    page = console()
    width = page.width if page.is_terminal else None
    page.width = page.width if page.is_terminal else UNLIMITED
    page.print(room.attention_table(seen, layer, head, width), "", room.token_table(seen, top))
    if out:
        print(f"{out} shows all heads of all layers.")


def export(directory: Directory, /, out: Path, batch_size: int = 1) -> None:
    """Write prefill and decode as StableHLO for CPU, CUDA and TPU, to run without jaxgpt.

    Args:
        directory: A run, or any model directory.
        out: The file to write; a zip of the two programs, weights inside, and a description.
        batch_size: How many texts at a time.
    """
    from jaxgpt.generation.export import export as run_export

    with working(f"exporting {directory}"):
        run_export(directory, out, batch_size)
    print(f"{out}: prefill.stablehlo, decode.stablehlo and about.json, which says how to call them")


def list_runs(
    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")] = Path("runs"), /
) -> None:
    """List the runs in a directory: their model, how far they are, their losses, whether their files are whole.

    Args:
        directory: Where to look; runs lie anywhere in it.
    """
    from rich.table import Table
    from rich.text import Text

    from jaxgpt.storage import run_directory

    with working(f"checking the files in {directory}"):
        found = [run_directory.summary(run) for run in run_directory.find(directory)]
    table = Table(
        "run",
        "config",
        "model",
        "step",
        "loss",
        "best val",
        "size",
        "state",
        box=None,
        pad_edge=False,
    )
    for one in found:
        losses = ["-" if loss is None else f"{loss:.4f}" for loss in (one.loss, one.val_loss)]
        steps, size = f"{one.step}/{one.steps}", f"{one.size / 1e6:,.1f} MB"
        table.add_row(
            *map(Text, (str(one.path), one.origin, one.model, steps, *losses, size, one.state))
        )
    console().print(table if found else Text(f"There is no run in {directory}."))


def settings() -> None:
    """Explain every setting of train, with its default and the values that it takes."""
    print(listing())


def main() -> None:
    commands: dict[str, Callable[..., Any]] = {
        "prepare": prepare,
        "train": train,
        "plan": plan,
        "eval": evaluate,
        "sample": sample,
        "look": look,
        "export": export,
        "runs": list_runs,
        "settings": settings,
    }
    run(
        "jaxgpt",
        "A GPT decoder in Flax: train it, look at it, carry it.",
        commands,
        as_assignments(sys.argv[1:]),
    )


def convert_main() -> None:
    """The command jaxgpt-convert, also where a file named convert.py hides its package."""
    from jaxgpt import convert

    importlib.import_module(f"{convert.__name__}.__main__").main()


if __name__ == "__main__":
    main()

"""jaxgpt-convert to-flax: a checkpoint file to a model directory."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxgpt.errors import UserError, in_a_row
from jaxgpt.seq2seq_config import Seq2SeqConfig
from jaxgpt.settings import typed
from jaxgpt.system import directories
from jaxgpt.system.stages import working

from . import fields_page
from .options import (
    Assignments,
    DialectName,
    Directory,
    File,
    IgnoreConfig,
    TorchArgs,
    model_fields,
    torch_arguments,
)

if TYPE_CHECKING:
    from ..api import Loaded
    from ..extras.read_extras import Extras
    from ..tokens.hf_tokenizer import FileTokenizer

DIFFERS = 3  # exit code


def to_flax(
    file: File,
    directory: Directory,
    /,
    *,
    torch: Annotated[str, tyro.conf.arg(metavar="MODULE:CLASS")] = "",
    torch_args: TorchArgs = (),
    assignments: Assignments = (),
    dialect: DialectName = None,
    ignore_config: IgnoreConfig = False,
    dtype: Literal["float16", "bfloat16", "float32", "float64"] | None = None,
    tokenizer: Path | None = None,
    allow_nonfinite: bool = False,
    weights_only: bool = False,
) -> int:
    """Convert a PyTorch checkpoint to a new model directory.

    With --torch, the exit code is 3 if the class computes something that no model of jaxgpt does;
    nothing is written then.

    Args:
        directory: The model directory to write; must not exist, or be empty.
        torch: The class of FILE, module:Class or file.py:Class, or a function that returns the
            model. Running it settles every field that FILE does not show, and proves the result.
        torch_args: An argument of that class, such as n_head=6, JSON or text; may be repeated.
        dtype: Store the weights in this type instead of the file's.
        tokenizer: A tokenizer.json or nanoGPT's meta.pkl to store in the directory, instead of the
            one next to FILE.
        allow_nonfinite: Accept weights that are NaN or infinite.
        weights_only: Leave out the optimiser and all other extras of the file.
    """
    directories.require_vacant(directory)
    if torch_args and not torch:
        raise UserError("--torch-arg is an argument of the class of --torch, which is missing.")
    fields = {"dialect": dialect, **model_fields(assignments)}
    how: dict[str, Any] = {
        "dtype": dtype, "allow_nonfinite": allow_nonfinite, "ignore_config": ignore_config,
        "weights_only": weights_only,
    }  # fmt: skip
    with working(f"{file} -> {directory}") as stage:
        if torch:
            arguments = torch_arguments(torch_args)
            loaded = _by_class(file, torch, arguments, {**how, **fields, "stage": stage})
        else:
            from .. import api

            inspected = api.inspect(file, ignore_config=ignore_config, **fields)
            loaded = api.loaded(inspected, **how)
        if isinstance(loaded, str):
            print(loaded)
            return DIFFERS
        loaded.save(directory, tokenizer, stage)
    _show(loaded, directory, tokenizer is None)
    if loaded.proven_by and loaded.doubt:
        print(f"UNPROVEN: equal if {loaded.doubt}. Compared with {loaded.proven_by}.")
    elif loaded.proven_by:
        print(f"PROVEN: the two compute the same function; compared with {loaded.proven_by}.")
    elif dtype:
        print("verify compares in the file's own dtype: to prove it, convert without --dtype.")
    else:
        named = class_to_name(loaded)
        print(f"Prove it: jaxgpt-convert verify {file} {directory}{named}")
        if loaded.dialect.reference in named.split():
            print("  (if another class wrote the file, name that one)")
    if loaded.report.assumed and not loaded.proven_by:
        print(
            "Some choices leave no trace in a file, such as BitLinear's rounded weights, or a "
            "missing causal mask. Only its class, run by --torch, or a text that it knows can show "
            f"them: jaxgpt-convert probe {file} --text TEXT"
        )
    return 0


def _by_class(
    file: Path, torch: str, torch_args: dict[str, Any], options: dict[str, Any]
) -> "Loaded | str":
    """The converted file, or a sentence on where its class and the model differ."""
    from ..files import torchfile

    torchfile.need_torch("--torch")
    from ..measuring.subject import Differs
    from ..proving.by_class import to_flax

    try:
        return to_flax(file, torch=torch, torch_args=torch_args, **options)
    except Differs as differs:
        return str(differs)


def _show(loaded: "Loaded", directory: Path, with_tokenizer: bool) -> None:
    """Print what was converted, what was left out, and how each field is known."""
    print(f"{loaded.source.path} ({loaded.dialect.name}) -> {directory}")
    if loaded.source.aside:
        aside = ", ".join(loaded.source.aside)
        print(f"Not read, because it holds the same weights: {aside}.")
    if with_tokenizer:
        _print_tokenizer(loaded.tokenizer)
    data = "PAIRS" if isinstance(loaded.config, Seq2SeqConfig) else "TEXT"
    _print_extras(loaded.extras, directory, data)
    from ..detect.report import ASSUMED

    fields_page.show(loaded.report, ASSUMED)


def class_to_name(loaded: "Loaded") -> str:
    """The option that `verify` needs for a proof; "" if the file itself names its class."""
    reference, report = loaded.dialect.reference, loaded.report
    if reference and not {*report.given, *report.assumed} - {"dropout", "encoder.dropout"}:
        return ""
    usual = reference and not loaded.dialect.unlike(loaded.config)
    return f" --torch {reference if usual else 'MODULE:CLASS'}"


def _print_tokenizer(tokenizer: "FileTokenizer") -> None:
    """Print which tokenizer was stored, or why none was."""
    if tokenizer.words:
        print(tokenizer.words)
    elif not tokenizer.problem:
        print("It has no tokenizer: prompts and output are ids, unless --tokenizer names one.")
    if tokenizer.problem:
        without = "So the model has no tokenizer; --tokenizer gives it one."
        print(f"warning: {tokenizer.problem.rstrip('.')}. {without}", file=sys.stderr)


def _print_extras(extras: "Extras", directory: Path, data: str) -> None:
    """Print how to continue training from `directory` with `data`, and which extras were left
    out."""
    if extras.optimizer:
        updates = extras.optimizer.moments.updates
        print(f"Its optimiser was converted too: AdamW after {updates:,} updates.")
    model = shlex.quote(str(directory))
    print(f"Fine-tune it: jaxgpt train --init {model} --data.path {data} --run.dir OUT")
    settings = [
        f"{section}.{name} {typed(value)}"
        for section, fields in extras.recipe.settings.items()
        for name, value in fields.items()
    ]
    if settings:
        print(f"  with the file's own settings: {', '.join(settings)}")
    if extras.optimizer:
        print("  --run.go_on true resumes its optimiser; train.steps then counts its steps too")
    for name, why in extras.recipe.left.items():
        print(f"warning: {name} of its config is not used: {why}.", file=sys.stderr)
    for name, why in extras.left.items():
        print(f"warning: {in_a_row([name])} is left out: {why}.", file=sys.stderr)

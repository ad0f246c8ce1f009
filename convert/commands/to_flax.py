"""jaxgpt-convert to-flax: a checkpoint file to a model directory."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxgpt.commands.shell import working
from jaxgpt.errors import in_a_row
from jaxgpt.settings import typed
from jaxgpt.system import directories

from . import fields_page
from .options import Assignments, DialectName, Directory, File, IgnoreConfig, model_fields

if TYPE_CHECKING:
    from ..api import Loaded
    from ..extras.read_extras import Extras
    from ..tokens.hf_tokenizer import FileTokenizer


def to_flax(
    file: File,
    directory: Directory,
    /,
    *,
    assignments: Assignments = (),
    dialect: DialectName = None,
    ignore_config: IgnoreConfig = False,
    dtype: Literal["float16", "bfloat16", "float32", "float64"] | None = None,
    tokenizer: Path | None = None,
    allow_nonfinite: bool = False,
    weights_only: bool = False,
) -> None:
    """Convert a PyTorch checkpoint to a new model directory.

    Args:
        directory: The model directory to write; must not exist, or be empty.
        dtype: Store the weights in this type instead of the file's.
        tokenizer: A tokenizer.json or nanoGPT's meta.pkl to store in the directory, instead of the
            one next to FILE.
        allow_nonfinite: Accept weights that are NaN or infinite.
        weights_only: Leave out the optimiser and all other extras of the file.
    """
    directories.require_vacant(directory)
    from .. import api

    with working(f"{file} -> {directory}") as stage:
        loaded = api.to_flax(
            file,
            dialect=dialect,
            dtype=dtype,
            allow_nonfinite=allow_nonfinite,
            ignore_config=ignore_config,
            weights_only=weights_only,
            stage=stage,
            **model_fields(assignments),
        )
        loaded.save(directory, tokenizer, stage)
    _show(loaded, directory, tokenizer is None)
    if dtype:
        print("verify compares in the file's own dtype: to prove it, convert without --dtype.")
    else:
        named = class_to_name(loaded)
        print(f"Prove it: jaxgpt-convert verify {file} {directory}{named}")
        if loaded.dialect.reference in named.split():
            print("  (if another class wrote the file, name that one)")
    if loaded.report.assumed:
        print(
            "What leaves no trace in a file, such as BitLinear's rounded weights, shows only in "
            "its class, by --torch, or in a text that it knows: "
            f"jaxgpt-convert probe {file} --text TEXT"
        )


def _show(loaded: "Loaded", directory: Path, with_tokenizer: bool) -> None:
    """Print what was converted, what was left out, and how each field is known."""
    print(f"{loaded.source.path} ({loaded.dialect.name}) -> {directory}")
    if loaded.source.aside:
        aside = ", ".join(loaded.source.aside)
        print(f"Not read, because it holds the same weights: {aside}.")
    if with_tokenizer:
        _print_tokenizer(loaded.tokenizer)
    _print_extras(loaded.extras, directory)
    from ..detect import caveats

    fields_page.show(loaded.report, caveats.ASSUMED)


def class_to_name(loaded: "Loaded") -> str:
    """The option of verify needed for a proof; "" if the file itself names its class."""
    reference, report = loaded.dialect.reference, loaded.report
    if reference and not {*report.given, *report.assumed} - {"dropout"}:
        return ""
    usual = reference and not loaded.dialect.unlike(loaded.config)
    return f" --torch {reference if usual else 'MODULE:CLASS'}"


def _print_tokenizer(tokenizer: "FileTokenizer") -> None:
    """Print which tokenizer was stored, or why none was."""
    if tokenizer.words:
        print(tokenizer.words)
    if tokenizer.problem:
        without = "The model has no tokenizer now; --tokenizer gives it one."
        print(f"warning: {tokenizer.problem.rstrip('.')}. {without}", file=sys.stderr)


def _print_extras(extras: "Extras", directory: Path) -> None:
    """Print how to resume training from `directory`, and which extras were left out."""
    if extras.optimizer:
        updates = extras.optimizer.moments.updates
        print(f"Its optimiser, AdamW after {updates:,} updates, goes along.")
    model = shlex.quote(str(directory))
    print(f"Fine-tune it: jaxgpt train --init {model} --data.path TEXT --run.dir OUT")
    settings = [
        f"{section}.{name} {typed(value)}"
        for section, fields in extras.recipe.settings.items()
        for name, value in fields.items()
    ]
    if settings:
        print(f"  with the file's own settings: {', '.join(settings)}")
    if extras.optimizer:
        print("  and, with --run.go_on true, from its optimiser's step, as train.steps counts")
    for name, why in extras.recipe.left.items():
        print(f"warning: {name} of its config is not taken: {why}.", file=sys.stderr)
    for name, why in extras.left.items():
        print(f"warning: {in_a_row([name])} stays behind: {why}.", file=sys.stderr)

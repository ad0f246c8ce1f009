"""What the commands print. Knows no command."""

import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxgpt.config import ModelConfig

if TYPE_CHECKING:
    from convert.detect import Detected
    from convert.hubtokens import Found
    from convert.parity import Page
    from convert.whole import Beside

ASSUMED = "Of the torch class the file does not say, and was assumed"


def report(detected: "Detected", assumed: str) -> None:
    known = detected.report
    for how, fields in (("read", known.read), ("given", known.given), (assumed, known.assumed)):
        if fields:
            print(f"{how}:\n  {listed(fields)}")
    if known.assumed:
        print("warning: what is assumed leaves no trace in the file. Each of these would settle it:", file=sys.stderr)
        for field in known.assumed:
            print(f"  --set {field}={choices(field)}", file=sys.stderr)
    for warning in [detected.dialect.beware] * bool(known.assumed) + detected.hints:
        if warning:
            print(f"warning: {warning}.", file=sys.stderr)


def beside(found: "Beside", directory: Path) -> None:
    if found.optimizer:
        flags = "".join(f" --optim.{name} {value}" for name, value in found.settings.items())
        print(f"Its optimiser, AdamW after {found.optimizer.moments.updates:,} updates, goes along. To go on training:")
        print(f"  jaxgpt train CONFIG.toml --init {directory} --run.go_on true{flags}")
    for name, why in found.left.items():
        print(f"warning: {name} stays behind: {why}.", file=sys.stderr)


def tokenizer(found: "Found") -> None:
    if found.words:
        print(found.words)
    if found.problem:
        without = "The model has no tokenizer now; --tokenizer gives it one."
        print(f"warning: {found.problem.rstrip('.')}. {without}", file=sys.stderr)


def choices(field: str) -> str:
    """What the field takes, as one would type it."""
    hint = typing.get_type_hints(ModelConfig)[field]
    options = [option for part in typing.get_args(hint) or (hint,) for option in typing.get_args(part) or (part,)]
    words = {bool: "true|false", int: "N", float: "NUMBER"}
    return "|".join(words.get(option, str(option)) for option in options)


def listed(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in fields.items())


def page(found: "Page") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    if found.ran:
        say(f"Beside the model ran {found.ran}.")
    for field, (theirs, ours) in found.fields.items():
        console.print(f"{field} is {theirs} in the file and {ours} in the directory")
    table = Table("", "max |difference|", "mean", "largest value", "")
    differing = [item for item in found.training if not item.same]
    for item in found.stages + differing:
        verdict = "same" if item.same else "DIFFERS"
        table.add_row(item.name, f"{item.max:.2e}", f"{item.mean:.2e}", f"{item.scale:.3g}", verdict)
    if found.stages:
        console.print(table)
        console.print(
            f"KL divergence {found.kl:.2e}, top-1 agreement {found.top1:.2%}; float64 on CPU, tolerance "
            f"{found.tolerance}"
        )
    if found.training:
        largest = max(item.max for item in found.training)
        console.print(
            f"training: the loss, {len(found.training) // 2} gradients and as many parameters after the last step, "
            f"{len(differing)} of them different; largest difference {largest:.2e}"
        )
    for name in found.weights:
        console.print(f"{name} does not hold the same numbers")

    if found.proven:
        say(f"Assumed or given, and proven by running this class: {listed(found.proven)}")
    if found.assumed:
        unproven = "What no run shows, or the class had to be told" if found.proven else ASSUMED
        say(f"{unproven}: {listed(found.assumed)}")
    if found.same and not found.stages:
        say(f"All numbers are the same. {found.hint}")
    elif found.same:
        console.print("The two compute the same function.")
    else:
        console.print(f"The two DIFFER, first in {found.first_difference or ', '.join(found.fields)}.")

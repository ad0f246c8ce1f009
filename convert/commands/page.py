"""The page that `verify` prints: the verdict first, and no longer than a terminal."""

import itertools
import math

from rich.console import Console
from rich.table import Table

from jaxgpt.errors import in_a_row

from ..proving.float64 import GRADIENT, Difference
from ..proving.verdict import Page
from .console import listed


def show(found: Page) -> None:
    """Print what verify found, the verdict first, in a page that fits a terminal."""
    print(_verdict(found))
    if found.ran:
        print(f"Beside the model ran {found.ran}.")
    for field, (theirs, ours) in found.fields.items():
        print(f"{field} is {theirs} in the file and {ours} in the directory")
    if found.stages:
        print(_compared(found), end="")
        agreement = f"KL divergence {found.kl:.2e}, top-1 agreement {found.top1:.2%}"
        print(f"{agreement}; float64 on CPU, tolerance {found.tolerance}")
    for line in [*_training(found), *_fields_of(found), *_ways_out(found)]:
        print(line)


def _verdict(found: Page) -> str:
    if found.verdict == "differs":
        return f"The two DIFFER, first in {found.first_difference or ', '.join(found.fields)}."
    if found.verdict == "proven":
        given = f", given {listed(found.given)} as you said" if found.given else ""
        return f"PROVEN{given}: the two compute the same function."
    if found.assumed:
        return f"UNPROVEN: equal under these assumptions: {listed(found.assumed)}."
    return "UNPROVEN: the numbers are equal, but no class was run."


def _compared(found: Page) -> str:
    """A row for each stage of the computation, and for each group of what was compared besides."""
    table = Table(box=None, pad_edge=False)
    for header in ("", "compared", "max |diff|", "mean", "max |value|", ""):
        table.add_column(header, no_wrap=True)
    for label, items in _groups(found):
        worst = _worst(items)
        verdict = "same" if all(item.same for item in items) else "DIFFERS"
        numbers = f"{worst.max:.2e}", f"{worst.mean:.2e}", f"{worst.scale:.3g}"
        table.add_row(label, str(len(items)), *numbers, verdict)
    console = Console(highlight=False)
    with console.capture() as captured:  # where a pipe is closed, rich itself would end with code 1
        console.print(table)
    return captured.get()


def _groups(found: Page) -> list[tuple[str, list[Difference]]]:
    """Labelled groups of rows: successive blocks with the same verdict, gradients, parameters."""

    def kind(item: Difference) -> tuple[bool, bool]:
        return item.name.startswith("block "), item.same

    groups: list[tuple[str, list[Difference]]] = []
    for (is_block, _), run in itertools.groupby(found.stages, kind):
        items = list(run)
        if is_block and len(items) > 1:
            last = items[-1].name.removeprefix("block ")
            groups.append((f"{items[0].name.replace('block', 'blocks')} to {last}", items))
        else:
            groups += [(item.name, [item]) for item in items]
    return groups + _training_groups(found)


def _training_groups(found: Page) -> list[tuple[str, list[Difference]]]:
    if not found.training:
        return []
    loss, *others = found.training
    gradients = [item for item in others if item.name.startswith(GRADIENT)]
    parameters = [item for item in others if not item.name.startswith(GRADIENT)]
    after = parameters[0].name.rpartition(" after ")[2] if parameters else ""
    groups = [("loss", [loss]), ("gradients", gradients), (f"parameters after {after}", parameters)]
    return [(label, items) for label, items in groups if items]


def _worst(items: list[Difference]) -> Difference:
    return max(items, key=lambda item: math.inf if math.isnan(item.relative) else item.relative)


def _training(found: Page) -> list[str]:
    """The worst of each group, by name, and where it parts."""
    lines = []
    for label, items in _training_groups(found)[1:]:
        differing = [item.name for item in items if not item.same]
        lines.append(f"Of the {label}, the worst is {_bare(_worst(items).name)}.")
        if differing:
            first = _bare(differing[0])
            lines.append(f"  {len(differing)} of {len(items)} differ, first that of {first}.")
    return lines


def _bare(name: str) -> str:
    return name.removeprefix(GRADIENT).partition(" after ")[0]


def _fields_of(found: Page) -> list[str]:
    """On whose word the fields stand that no file shows, as far as the verdict has not said so."""
    lines = []
    if found.proven:
        lines.append(f"Shown by running this class: {listed(found.proven)}.")
    if found.given and found.verdict != "proven":
        lines.append(f"Given, as you said: {listed(found.given)}.")
    if found.assumed and found.verdict == "differs":
        lines.append(f"Assumed, for the file does not say it: {listed(found.assumed)}.")
    if found.inherited:
        lines.append(
            "The model came from another file, of which this proves nothing; there was assumed: "
            f"{listed(found.inherited)}."
        )
    return lines


def _ways_out(found: Page) -> list[str]:
    lines = []
    if found.weights:
        names = in_a_row(found.weights, ", ")
        lines.append(f"These tensors do not hold the same numbers: {names}.")
    if found.same and not found.ran:
        lines.append(f"All numbers are the same. {found.hint}")
    elif found.hint:
        lines.append(found.hint)
    if found.verdict == "unproven" and found.assumed:
        lines += _proofs(found)
    if found.agreeing:
        fields, left = listed(found.agreeing.fields), found.agreeing.max
        lines.append(f"With {fields} the two agree ({left:.1e}): {found.agreeing.command}")
    return lines


def _proofs(found: Page) -> list[str]:
    """How what is equal under assumptions could be proven."""
    if found.proven:
        return ["The class was told what is assumed, so that running it does not prove it."]
    lines = []
    if found.ran:
        lines.append("The class that ran was chosen by tensor names, and does what was assumed.")
    lines += [
        "To prove it, name the file's own class: --torch module:Class. jaxgpt-convert probe",
        "finds such fields by their loss on text. --allow-assumed ends with exit code 0.",
    ]
    return lines

"""The page that `verify` prints: the verdict first, in lines that fit a terminal."""

import itertools
import math

from rich.console import Console
from rich.table import Table

from jaxgpt.errors import in_a_row

from ..proving.float64 import GRADIENT, Difference
from ..proving.verdict import Page
from .console import listed


def show(found: Page) -> None:
    """Print the result of `verify`."""
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


def _verdict(page: Page) -> str:
    if page.verdict == "differs":
        return f"The two DIFFER, first in {page.first_difference or ', '.join(page.fields)}."
    if page.verdict == "proven":
        given = f", given {listed(page.given)} as you said" if page.given else ""
        return f"PROVEN{given}: the two compute the same function."
    if page.assumed:
        return f"UNPROVEN: equal under these assumptions: {listed(page.assumed)}."
    return "UNPROVEN: the numbers are equal, but no class was run."


def _compared(page: Page) -> str:
    """The table of compared stages and groups of quantities, as text."""
    table = Table(box=None, pad_edge=False)
    for header in ("", "compared", "max |diff|", "mean", "max |value|", ""):
        table.add_column(header, no_wrap=True)
    for label, items in _groups(page):
        worst = _worst(items)
        verdict = "same" if all(item.same for item in items) else "DIFFERS"
        numbers = f"{worst.max:.2e}", f"{worst.mean:.2e}", f"{worst.scale:.3g}"
        table.add_row(label, str(len(items)), *numbers, verdict)
    console = Console(highlight=False)
    # Captured, because rich itself exits with code 1 if the pipe is closed.
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def _groups(page: Page) -> list[tuple[str, list[Difference]]]:
    """Labelled groups of rows: successive blocks with the same verdict, gradients, parameters."""

    def kind(item: Difference) -> tuple[bool, bool]:
        return item.name.startswith("block "), item.same

    groups: list[tuple[str, list[Difference]]] = []
    for (is_block, _), run in itertools.groupby(page.stages, kind):
        items = list(run)
        if is_block and len(items) > 1:
            last = items[-1].name.removeprefix("block ")
            groups.append((f"{items[0].name.replace('block', 'blocks')} to {last}", items))
        else:
            groups += [(item.name, [item]) for item in items]
    return groups + _training_groups(page)


def _training_groups(page: Page) -> list[tuple[str, list[Difference]]]:
    if not page.training:
        return []
    loss, *others = page.training
    gradients = [item for item in others if item.name.startswith(GRADIENT)]
    parameters = [item for item in others if not item.name.startswith(GRADIENT)]
    after = parameters[0].name.rpartition(" after ")[2] if parameters else ""
    groups = [("loss", [loss]), ("gradients", gradients), (f"parameters after {after}", parameters)]
    return [(label, items) for label, items in groups if items]


def _worst(items: list[Difference]) -> Difference:
    return max(items, key=lambda item: math.inf if math.isnan(item.relative) else item.relative)


def _training(page: Page) -> list[str]:
    """The worst of each group, by name, and the first that differs."""
    lines = []
    for label, items in _training_groups(page)[1:]:
        differing = [item.name for item in items if not item.same]
        lines.append(f"Of the {label}, the worst is {_bare(_worst(items).name)}.")
        if differing:
            first = _bare(differing[0])
            lines.append(f"  {len(differing)} of {len(items)} differ, first that of {first}.")
    return lines


def _bare(name: str) -> str:
    return name.removeprefix(GRADIENT).partition(" after ")[0]


def _fields_of(page: Page) -> list[str]:
    """Lines on how each field that no file shows is known, unless the verdict has said so."""
    lines = []
    if page.proven:
        lines.append(f"Shown by running this class: {listed(page.proven)}.")
    if page.given and page.verdict != "proven":
        lines.append(f"Given, as you said: {listed(page.given)}.")
    if page.assumed and page.verdict == "differs":
        lines.append(f"Assumed, for the file does not say it: {listed(page.assumed)}.")
    if page.inherited:
        lines.append(
            "The model came from another file, of which this proves nothing; there was assumed: "
            f"{listed(page.inherited)}."
        )
    return lines


def _ways_out(page: Page) -> list[str]:
    lines = []
    if page.weights:
        names = in_a_row(page.weights, ", ")
        lines.append(f"These tensors do not hold the same numbers: {names}.")
    if page.same and not page.ran:
        lines.append(f"All numbers are the same. {page.hint}")
    elif page.hint:
        lines.append(page.hint)
    if page.verdict == "unproven" and page.assumed:
        lines += _proofs(page)
    if page.agreeing:
        fields, left = listed(page.agreeing.fields), page.agreeing.max
        lines.append(f"With {fields} the two agree ({left:.1e}): {page.agreeing.command}")
    return lines


def _proofs(page: Page) -> list[str]:
    """Ways to prove two models that are equal under assumptions."""
    if page.proven:
        return ["The class was told what is assumed, so that running it does not prove it."]
    lines = []
    if page.ran:
        lines.append("The class that ran was chosen by tensor names, and does what was assumed.")
    lines += [
        "To prove it, name the file's own class: --torch module:Class. jaxgpt-convert probe",
        "finds such fields by their loss on text. --allow-assumed ends with exit code 0.",
    ]
    return lines

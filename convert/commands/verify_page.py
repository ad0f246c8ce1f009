"""The page that `verify` prints: the verdict first, in lines that fit a terminal."""

import itertools
import json
import math
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxgpt.errors import in_a_row

from ..foreign.config_objects import ABSENT
from ..proving.difference import Difference
from ..proving.verdict import Verification
from .fields_page import briefly, listed


def show(page: Verification) -> None:
    """Print the result of `verify`."""
    print(_verdict(page))
    if explanation := _explanation(page):
        print(explanation)
    if page.ran:
        print(f"Compared with {page.ran}.")
    for field, (theirs, ours) in page.fields.items():
        print(f"{field} is {theirs} in the file and {ours} in the directory")
    if page.stages:
        print(_compared(page), end="")
        agreement = f"KL divergence {page.kl:.2e}, top-1 agreement {page.top1:.2%}"
        print(f"{agreement}; float64 on CPU, tolerance {page.tolerance}")
    for note in page.notes:
        print(f"Note: {note}.")
    for line in [*_training(page), *_fields_of(page), *_ways_out(page)]:
        print(line)


def _verdict(page: Verification) -> str:
    """The first line: the verdict in capitals, and what it means."""
    if page.verdict == "differs":
        where = page.first_difference or ", ".join(page.fields)
        return f"The two DIFFER, first in {where}."
    if page.verdict == "proven":
        condition = f", given {briefly(page.given)} as you said" if page.given else ""
        return f"PROVEN{condition}: the two compute the same function."
    if page.assumed:
        return f"UNPROVEN: equal under these assumptions: {briefly(page.assumed)}."
    if page.doubt:
        return f"UNPROVEN: equal if {page.doubt}."
    return "UNPROVEN: the numbers are equal, but no class was run."


def _explanation(page: Verification) -> str:
    """The meaning of a first difference; "" if its name says enough."""
    first = page.first_difference or ""
    if first.startswith("block "):
        return f"All that comes before {first} agrees: look for the cause in that block."
    if page.short_input and not page.short_input.same:
        return "They agree on full windows: the class depends on the length of its input."
    if page.random_weights and not page.random_weights.same:
        return (
            "They agree on the weights in the file, but some of these are constant, as before "
            "training.\nWith random values the two differ, as they would after training."
        )
    return ""


def _compared(page: Verification) -> str:
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


def _groups(page: Verification) -> list[tuple[str, list[Difference]]]:
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
    groups += [(item.name, [item]) for item in page.further]
    return groups + _training_groups(page)


def _training_groups(page: Verification) -> list[tuple[str, list[Difference]]]:
    if not page.training:
        return []
    training = page.training
    steps = "1 step" if training.steps == 1 else f"{training.steps} steps"
    groups = [
        ("loss", [training.loss]),
        ("gradients", training.gradients),
        (f"parameters after {steps}", training.parameters),
    ]
    return [(label, items) for label, items in groups if items]


def _worst(items: list[Difference]) -> Difference:
    return max(items, key=lambda item: math.inf if math.isnan(item.relative) else item.relative)


def _training(page: Verification) -> list[str]:
    """The largest difference in each group, by name, and the first that exceeds the tolerance."""
    lines = []
    for label, items in _training_groups(page)[1:]:
        differing = [item.name for item in items if not item.same]
        lines.append(f"Largest difference of the {label}: {_worst(items).name}.")
        if differing:
            first = differing[0]
            lines.append(
                f"  {len(differing)} of {len(items)} differ; the first is that of {first}."
            )
    return lines


def _fields_of(page: Verification) -> list[str]:
    """Lines on the source of each field that no file shows, unless the verdict already says so."""
    lines = []
    if page.proven:
        lines.append(f"Shown by running this class: {briefly(page.proven)}.")
    if page.given and page.verdict != "proven":
        lines.append(f"Given, as you said: {briefly(page.given)}.")
    if page.assumed and page.verdict == "differs":
        lines.append(f"Assumed, as the file does not show them: {briefly(page.assumed)}.")
    if page.inherited:
        lines.append(
            "The model was converted from another file. This comparison proves nothing about that "
            f"conversion, which assumed {briefly(page.inherited)}."
        )
    return lines


def _ways_out(page: Verification) -> list[str]:
    lines = []
    if page.weights:
        names = in_a_row(page.weights, ", ")
        lines.append(f"The values of these tensors differ: {names}.")
    if page.same and not page.ran:
        lines.append(f"All numbers are the same. {page.hint}")
    elif page.hint:
        lines.append(page.hint)
    if page.verdict == "unproven" and (page.assumed or page.doubt):
        lines += _proofs(page)
    if page.agreeing:
        fields, left = listed(page.agreeing.fields), page.agreeing.max
        lines.append(f"With {fields} the two agree ({left:.1e}): {page.agreeing.command}")
    return lines


def _proofs(page: Verification) -> list[str]:
    """Ways to prove two models that are equal under assumptions."""
    lines = []
    if page.proven and page.assumed:
        lines.append(
            "The class was built with the assumed values, so running it does not prove them."
        )
    if page.defaults:
        lines += _confirmations(page.defaults)
    if page.proven or page.defaults:  # the user named the class
        return lines
    if page.ran:
        lines.append("The class that ran was chosen by tensor names, so it shares the assumptions.")
    lines += [
        "To prove it, name the file's own class: --torch module:Class. jaxgpt-convert probe",
        "finds such fields by their loss on text. --allow-assumed ends with exit code 0.",
    ]
    return lines


def _confirmations(defaults: dict[str, Any]) -> list[str]:
    """How the user can confirm the arguments with which the class was built in training."""
    words = [
        f"--torch-arg {name}={value if isinstance(value, str) else json.dumps(value, default=str)}"
        for name, value in defaults.items()
        if value != ABSENT
    ]
    lines = [
        "Only you know whether the class was built with these defaults in training. If not, pass",
        "the values that were used with --torch-arg, or name a function that returns the model.",
    ]
    if words:
        lines.append(f"If it was, confirm them: {' '.join(words)}")
    return lines

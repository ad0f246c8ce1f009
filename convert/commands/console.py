"""The output of the commands: tables, lists and warnings. Independent of the commands."""

import shlex
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxgpt.commands.shell import console
from jaxgpt.config import ModelConfig
from jaxgpt.settings import typed

if TYPE_CHECKING:
    from ..api import Inspected, Loaded
    from ..detect.detect import Detected
    from ..extras.extras import Beside
    from ..probing.ranking import Ranking
    from ..tokens.hf_tokenizer import Found

MOST = 12  # rows of a printed table at most


def facts(found: "Inspected") -> dict[str, Any]:
    """The facts that inspect prints, by their labels."""
    source = found.source
    return {
        "file": str(source.path),
        "container": source.container,
        "state dict": f"under {source.nested!r}" if source.nested else "at the root",
        "beside it": ", ".join(map(str, source.extras)) or "nothing",
        "prefix": source.prefix or "none",
        "dialect": found.detected.dialect.name,
        "tensors": len(source.tensors),
        "parameters": found.parameters,
        "buffers": found.buffers,
        "dtypes": ", ".join(f"{name} x {count}" for name, count in found.dtypes.items()),
    }


def report(detected: "Detected", assumed: str) -> None:
    """Print how each field is known; `assumed` is the label of those that are assumed."""
    details = detected.report
    for how, fields in (
        ("read", details.read),
        ("given", details.given),
        (assumed, details.assumed),
    ):
        if fields:
            print(f"{how}:\n  {listed(fields)}")
    caveats = list(details.caveats)
    if details.assumed:
        print(f"warning: {caveats.pop(0)}. Each of these would settle it:", file=sys.stderr)
        for field in details.assumed:
            print(f"  --set {field}={choices(field)}", file=sys.stderr)
    for caveat in caveats:
        print(f"warning: {caveat}.", file=sys.stderr)


def beside(found: "Beside", directory: Path) -> None:
    """Print how to resume training from `directory`, and which extras were not taken along."""
    if found.optimizer:
        print(
            f"Its optimiser, AdamW after {found.optimizer.moments.updates:,} updates, goes along."
        )
    print(
        f"Fine-tune it: jaxgpt train --init {shlex.quote(str(directory))} --data.path TEXT --run.dir OUT"
    )
    own = [
        f"{section}.{name} {typed(value)}"
        for section, fields in found.recipe.settings.items()
        for name, value in fields.items()
    ]
    if own:
        print(f"  with the file's own settings: {', '.join(own)}")
    if found.optimizer:
        print(
            "  and with --run.go_on true from its optimiser's step, which train.steps counts as well"
        )
    for name, why in found.recipe.left.items():
        print(f"warning: {name} of its config is not taken: {why}.", file=sys.stderr)
    for name, why in found.left.items():
        print(f"warning: {name} stays behind: {why}.", file=sys.stderr)


def class_to_name(loaded: "Loaded") -> str:
    """The option of verify needed for a proof; "" if the file itself names its class."""
    reference, details = loaded.dialect.reference, loaded.report
    if reference and not {*details.given, *details.assumed} - {"dropout"}:
        return ""
    usual = reference and not loaded.dialect.unlike(loaded.config)
    return f" --torch {reference if usual else 'MODULE:CLASS'}"


def tokenizer(found: "Found") -> None:
    """Print which tokenizer was taken along, or why none was."""
    if found.words:
        print(found.words)
    if found.problem:
        without = "The model has no tokenizer now; --tokenizer gives it one."
        print(f"warning: {found.problem.rstrip('.')}. {without}", file=sys.stderr)


def choices(field: str) -> str:
    """The values that `field` takes, as typed on a command line."""
    hint = typing.get_type_hints(ModelConfig)[field]
    options = [
        option
        for part in typing.get_args(hint) or (hint,)
        for option in typing.get_args(part) or (part,)
    ]
    words = {bool: "true|false", int: "N", float: "NUMBER"}
    return "|".join(words.get(option, str(option)) for option in options)


def listed(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in fields.items())


def ranking(found: "Ranking") -> None:
    """Print the table of combinations, what is settled, and what the user has to set."""
    print(probe_verdict(found))
    if found.rows:
        tried = f"{len(found.rows)} of {found.possible} combinations on {found.tokens:,} tokens"
        print(f"{tried}; ids by {found.spelling}." if found.spelling else f"{tried}.")
        _table(found)
        if not found.fits:
            print(f"warning: {misfit(found)}", file=sys.stderr)
        elif found.settled:
            print(
                f"settled, by {found.margin:.4f} nats per token or more:\n  {listed(found.settled)}"
            )
    for name, values in found.unsettled.items() if found.fits else ():
        those = ", ".join(map(typed, values))
        way = f"say it with --set {name}=N, and probe again"
        if name in found.to_say:
            usual = typed(found.assumed[name])
            way = (
                f"not with the usual {usual}, so say one of them, such as "
                f"--set {name}={typed(found.to_say[name])}"
            )
        elif name in found.kept:
            way = f"{typed(found.kept[name])} is kept, as assumed"
        print(f"cannot be told: {name} is one of {those}; {way}", file=sys.stderr)
    for name in found.asked:
        print(
            f"cannot be told: {name} shows in no loss; say it with --set {name}=N", file=sys.stderr
        )
    if found.line:
        print(found.line)


def probe_verdict(found: "Ranking") -> str:
    """The first line of the page: what the text settles."""
    if not found.rows:
        return "Nothing is left open that a loss could show."
    if not found.fits:
        return "NOTHING FITS: no combination computes what the model was trained to compute."
    still_open = ", ".join([*found.unsettled, *found.asked])
    if not found.settled:
        return f"NOT SETTLED: this text cannot tell {still_open}."
    if still_open:
        return f"SETTLED: {listed(found.settled)}. This text cannot tell {still_open}."
    return f"SETTLED: {listed(found.settled)}."


def misfit(found: "Ranking") -> str:
    """One paragraph on why no combination can be that of training."""
    loss, reasons = found.rows[0].loss, []
    if loss >= found.floor:
        counted = (
            "which token follows which"
            if found.bigram < found.entropy
            else "how frequent each token is"
        )
        reasons.append(
            f"The best loses {loss:.4f} nats per token, and counting {counted} loses "
            f"{found.floor:.4f}."
        )
    if found.improvements:
        change, gain = max(found.improvements.items(), key=lambda pair: pair[1])
        reasons.append(
            f"A trained model is at its best as it is, but with {change} the best loses "
            f"{gain:.4f} less."
        )
    causes = [
        "the model computes something else than any candidate (rotary positions, ALiBi, none at "
        "all, scaled embeddings, another block)",
        "the text is not of the kind that it was trained on",
        "its ids mean other tokens",
        "it was hardly trained",
    ]
    if "context_length" in found.asked:
        causes.append(
            "its context is shorter than what was tried; say it with --set context_length=N"
        )
    return (
        f"NOTHING FITS. {' '.join(reasons)} So the order means nothing, and nothing is settled. "
        f"Either {', or '.join(causes)}. verify --torch with the class that wrote the file can "
        "tell."
    )


def _table(ranked: "Ranking") -> None:
    """Print a table with a column for each field; on a narrow terminal, one for all of them."""
    from rich.table import Table

    screen, figures = console(), ("loss", "behind", "noise")
    wide = Table(*ranked.options, *figures, box=None, pad_edge=False)
    narrow = Table(
        *figures, "fields; after the first row, those that differ", box=None, pad_edge=False
    )
    first: dict[str, str] = {}
    for row, values in ranked.groups[:MOST]:
        typed_values = {name: "|".join(map(typed, values[name])) for name in ranked.options}
        numbers = [f"{number:.4f}" for number in (row.loss, *row.behind(ranked.rows[0]))]
        unlike = (
            f"{name}={value}" for name, value in typed_values.items() if value != first.get(name)
        )
        wide.add_row(*typed_values.values(), *numbers)
        narrow.add_row(*numbers, " ".join(unlike))
        first = first or typed_values
    anything = screen.options.update(max_width=10**6)
    fits = screen.measure(wide, options=anything).maximum <= screen.width
    screen.print(wide if fits else narrow)

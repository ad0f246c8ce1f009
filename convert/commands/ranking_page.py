"""The page that `probe` prints: combinations ranked by loss, and what they settle."""

import sys
from typing import TYPE_CHECKING

from jaxgpt.commands.shell import console
from jaxgpt.settings import typed

from .fields_page import listed

if TYPE_CHECKING:
    from ..probing.ranking import Ranking

MOST = 12  # the most rows of a printed table


def show(ranking: "Ranking") -> None:
    """Print the table of combinations, what is settled, and what the user has to set."""
    print(_verdict(ranking))
    if ranking.rows:
        _show_rows(ranking)
    if ranking.fits:
        for name in ranking.unsettled:
            print(f"undecided: {_unsettled(ranking, name)}", file=sys.stderr)
    for name in ranking.asked:
        print(f"undecided: no loss shows {name}; set it with --set {name}=N", file=sys.stderr)
    if ranking.line:
        print(ranking.line)


def _verdict(ranking: "Ranking") -> str:
    """The first line of the page: what the text settles."""
    if not ranking.rows:
        return "Nothing is left open that a loss could show."
    if not ranking.fits:
        return "NOTHING FITS: no combination computes what the model was trained to compute."
    still_open = ", ".join([*ranking.unsettled, *ranking.asked])
    if not ranking.settled:
        return f"NOT SETTLED: this text does not decide {still_open}."
    if still_open:
        return f"SETTLED: {listed(ranking.settled)}. This text does not decide {still_open}."
    return f"SETTLED: {listed(ranking.settled)}."


def _show_rows(ranking: "Ranking") -> None:
    count = f"{len(ranking.rows)} of {ranking.possible:,} combinations"
    tried = f"{count} on {ranking.tokens:,} tokens"
    print(f"{tried}; ids by {ranking.spelling}." if ranking.spelling else f"{tried}.")
    _table(ranking)
    if not ranking.fits:
        print(f"warning: {misfit(ranking)}", file=sys.stderr)
    elif ranking.settled:
        print(f"settled, by {ranking.margin:.4f} nats per token or more:")
        print(f"  {listed(ranking.settled)}")


def _unsettled(ranking: "Ranking", name: str) -> str:
    """The values of field `name` that fit equally well, and what to do about it."""
    values = ", ".join(map(typed, ranking.unsettled[name]))
    if name in ranking.to_say:
        usual, choice = typed(ranking.assumed[name]), typed(ranking.to_say[name])
        way = f"the usual {usual} does not fit, so choose one, such as --set {name}={choice}"
    elif name in ranking.kept:
        way = f"{typed(ranking.kept[name])} is kept, as assumed"
    else:
        way = f"choose with --set {name}={typed(ranking.unsettled[name][0])}, and probe again"
    return f"{name} is one of {values}; {way}"


def misfit(ranking: "Ranking") -> str:
    """One paragraph on why no combination can be the one used in training."""
    loss, reasons = ranking.rows[0].loss, []
    if loss >= ranking.floor:
        counted = (
            "which token follows which"
            if ranking.bigram < ranking.entropy
            else "how frequent each token is"
        )
        reasons.append(
            f"The best has a loss of {loss:.4f} nats per token, but a model that only counts "
            f"{counted} has {ranking.floor:.4f}."
        )
    if ranking.improvements:
        change, gain = max(ranking.improvements.items(), key=lambda pair: pair[1])
        reasons.append(
            f"Training finds the best scale for every part of a model, but with {change} the loss "
            f"of the best falls by {gain:.4f}."
        )
    causes = [
        "the model computes something else than any candidate (other rotary angles, other slopes "
        "of ALiBi, another scale of embeddings, another block)",
        "the text is not of the kind that it was trained on",
        "its ids mean other tokens",
        "it was hardly trained",
    ]
    if "context_length" in ranking.asked:
        causes.append(
            "its context is shorter than what was tried; set it with --set context_length=N"
        )
    return (
        f"NOTHING FITS. {' '.join(reasons)} So the ranking means nothing, and nothing is settled. "
        f"Either {', or '.join(causes)}. To find out, run verify --torch with the class that wrote "
        "the file."
    )


def _table(ranking: "Ranking") -> None:
    """Print a table with a column for each field, or, on a narrow terminal, a single one for
    all."""
    from rich.table import Table

    screen, figures = console(), ("loss", "behind", "noise")
    wide = Table(*ranking.options, *figures, box=None, pad_edge=False)
    narrow = Table(
        *figures, "fields; after the first row, those that differ", box=None, pad_edge=False
    )
    first: dict[str, str] = {}
    for row, values in ranking.groups[:MOST]:
        typed_values = {
            name: "|".join(map(typed, values.get(name, ()))) for name in ranking.options
        }
        numbers = [f"{number:.4f}" for number in (row.loss, *row.behind(ranking.rows[0]))]
        unlike = (
            f"{name}={value}"
            for name, value in typed_values.items()
            if value and value != first.get(name)
        )
        wide.add_row(*typed_values.values(), *numbers)
        narrow.add_row(*numbers, " ".join(unlike))
        first = first or typed_values
    anything = screen.options.update(max_width=10**6)
    fits = screen.measure(wide, options=anything).maximum <= screen.width
    screen.print(wide if fits else narrow)

"""The fields of a model by source (read, given, assumed), as `inspect` and `to-flax` print them.

The labels and the sentences of the warnings are worded in `detect/report.py`.
"""

import sys
import textwrap
import typing
from typing import TYPE_CHECKING, Any

from jaxgpt.commands.shell import console
from jaxgpt.config import ModelConfig
from jaxgpt.seq2seq_config import ENCODER, as_options

if TYPE_CHECKING:
    from ..detect.report import Report


def show(report: "Report", assumed: str) -> None:
    """Print the fields by source, then warnings; `assumed` is the label of assumed fields."""
    from ..detect.report import FOUND, GIVEN, HOW_TO_SET, READ, SELDOM_SET
    from ..rows.fields import SELDOM

    for label, fields in (
        (READ, report.read),
        (GIVEN, report.given),
        (FOUND, report.found),
        (assumed, report.assumed),
    ):
        options = as_options(fields)
        of_encoder = options.pop("encoder", {})
        if options:
            print(f"{label}:\n{_indented(briefly(options))}")
        if of_encoder:
            print(f"{label}, of the encoder:\n{_indented(briefly(of_encoder))}")
    if report.assumption:
        print(f"warning: {report.assumption}. {HOW_TO_SET}", file=sys.stderr)
        rest = [field for field in report.assumed if field.removeprefix(ENCODER) in SELDOM]
        for field in report.assumed:
            if field not in rest:
                print(f"  --set {field}={choices(field)}", file=sys.stderr)
        if rest:
            print(f"  {SELDOM_SET} {', '.join(rest)}", file=sys.stderr)
    for sentence in report.other_caveats:
        print(f"warning: {sentence}.", file=sys.stderr)


def _indented(text: str) -> str:
    """`text`, indented; on a terminal it is wrapped, but not within a field and its value."""
    screen = console()
    if not screen.is_terminal:
        return f"  {text}"
    joined = text.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
    lines = textwrap.wrap(joined, screen.width - 2, break_on_hyphens=False)
    return textwrap.indent("\n".join(lines), "  ").replace("\N{NO-BREAK SPACE}", " ")


def choices(field: str) -> str:
    """The values that `field` takes, as typed on a command line."""
    hint = typing.get_type_hints(ModelConfig)[field.removeprefix(ENCODER)]
    options = [
        option
        for part in typing.get_args(hint) or (hint,)
        for option in typing.get_args(part) or (part,)
    ]
    words = {bool: "true|false", int: "N", float: "NUMBER"}
    return "|".join(words.get(option, str(option)) for option in options)


def listed(fields: dict[str, Any]) -> str:
    """`name = value` of each field, in one line."""
    return ", ".join(f"{name} = {value}" for name, value in fields.items())


def briefly(fields: dict[str, Any]) -> str:
    """As `listed`, but without the values of fields that are the same in nearly all classes."""
    from ..detect import report
    from ..rows.fields import SELDOM, USUAL

    plain = {name: name.removeprefix(ENCODER) for name in fields}
    usual = [
        name for name in fields if plain[name] in SELDOM and fields[name] == USUAL[plain[name]]
    ]
    others = listed({name: value for name, value in fields.items() if name not in usual})
    if not (others and usual):
        return listed(fields)
    return f"{others}; {report.USUAL} {', '.join(usual)}"

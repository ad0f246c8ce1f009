"""jaxgpt-convert inspect: what a checkpoint holds, without reading all of it."""

import json as json_format
from typing import TYPE_CHECKING, Any

from jaxgpt.errors import in_a_row

from . import fields_page
from .options import Assignments, DialectName, File, IgnoreConfig, Json, model_fields

if TYPE_CHECKING:
    from ..api import Inspected


def inspect(
    file: File,
    /,
    *,
    assignments: Assignments = (),
    dialect: DialectName = None,
    ignore_config: IgnoreConfig = False,
    json: Json = False,
) -> None:
    """Show what a checkpoint holds, what can be read from it, and what would be assumed."""
    from .. import api
    from ..detect.report import WOULD_BE_ASSUMED

    fields = model_fields(assignments)
    inspected = api.inspect(file, dialect=dialect, ignore_config=ignore_config, **fields)
    report = inspected.detected.report
    if json:
        page = {**facts(inspected), **report.fields, "caveats": report.caveats}
        print(json_format.dumps(page, indent=2))
        return
    for label, value in facts(inspected).items():
        print(f"{label:<12}{_printable(value)}")
    if dialect == "auto":
        _print_structure(inspected)
    fields_page.show(report, WOULD_BE_ASSUMED)


def facts(inspected: "Inspected") -> dict[str, Any]:
    """The facts that `inspect` prints, by their labels."""
    source = inspected.source
    return {
        "file": str(source.path),
        "container": source.container,
        "state dict": f"under {source.nested!r}" if source.nested else "at the root",
        "extras": ", ".join(map(str, source.extras)) or "nothing",
        "prefix": source.prefix or "none",
        "dialect": inspected.detected.dialect.name,
        "tensors": len(source.tensors),
        "parameters": inspected.parameters,
        "buffers": inspected.buffers,
        "dtypes": ", ".join(f"{name} x {count}" for name, count in inspected.dtypes.items()),
    }


def _printable(value: int | str) -> str:
    """`value` with control characters escaped, which names in an untrusted file may contain."""
    return f"{value:,}" if isinstance(value, int) else in_a_row([value])


def _print_structure(inspected: "Inspected") -> None:
    from ..detect.by_structure import described
    from ..rows.pair import of_decoder

    print("names, as their structure explains them:")
    for line in described(of_decoder(inspected.detected.dialect, "--dialect auto")):
        print(f"  {_printable(line)}")

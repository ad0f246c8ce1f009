"""The page: every section as a table, in Markdown for people and in JSON for programs."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.accelerator import Row

MARKDOWN, JSON = "accelerator.md", "accelerator.json"
ABSENT = "not measured"


@dataclass(frozen=True)
class Result:
    """What came of a section: its rows, and the error that ended it, if there was one."""

    name: str
    about: str  # the docstring of its file
    rows: list[Row]
    error: str
    seconds: float


def write(out: Path, results: list[Result], size: str) -> Path:
    """Write the page on `results` to the folder `out`; `size` says at what size they are."""
    failed = [result.name for result in results if result.error]
    (out / JSON).write_text(
        json.dumps(
            {"size": size, "failed": failed, "sections": [asdict(result) for result in results]},
            indent=1,
        )
        + "\n"
    )
    verdict = f"Failed: {', '.join(failed)}." if failed else "No section failed."
    seconds = sum(result.seconds for result in results)
    head = f"# jaxgpt on an accelerator\n\n{size} {verdict} All sections took {seconds:.0f} s.\n"
    (out / MARKDOWN).write_text("\n".join([head, *map(section, results)]))
    return out / MARKDOWN


def section(result: Result) -> str:
    """The part of the page on `result`."""
    title, _, more = result.about.strip().partition("\n")
    parts = [f"## {result.name.replace('_', ' ')}", f"{title}\n{more}".strip()]
    if result.rows:
        parts.append(table(result.rows))
    if result.error:
        parts.append(f"**Failed:** {result.error}")
    return "\n\n".join(parts) + "\n"


def table(rows: list[Row]) -> str:
    """`rows` as a table, with a column for each name that occurs in them, notes last."""
    names = dict.fromkeys(name for row in rows for name in row if name != "note")
    columns = [*names, *(["note"] if any("note" in row for row in rows) else [])]
    lines = [columns, ["---"] * len(columns)]
    lines += [[shown(row.get(column, "")) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: Any) -> str:
    """A figure as the table has it: four digits of what is not whole."""
    if value is None:
        return ABSENT
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")

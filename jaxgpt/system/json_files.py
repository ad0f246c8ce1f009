"""JSON files, written atomically and read with readable errors."""

import json
from pathlib import Path
from typing import Any

from jaxgpt.errors import UserError, require
from jaxgpt.system.atomic_files import replaced_file

DAMAGED = "It was changed or damaged: restore it from a copy, or make the directory again."


def write_json(file: Path, value: Any) -> None:
    """Write `value` to `file`, indented, as UTF-8."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with replaced_file(file) as partial:
        # The name of a file may have bytes that are not UTF-8; JSON has escapes for them.
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def parse_json(text: str | bytes, where: object, way_out: str) -> Any:
    """The value of a JSON text; UserError for any other text, and if it is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        reason = "brackets are nested too deep in it"
    except ValueError as error:  # also text that is not UTF-8
        reason = str(error)
    raise UserError(f"{where} is not JSON: {reason}. {way_out}")


def read_json(file: Path, way_out: str = DAMAGED, most: int | None = None) -> dict[str, Any]:
    """The JSON object in a file of at most `most` bytes; errors end in `way_out`."""
    require(
        file.is_file(),
        f"{file} is missing: {file.parent} is not a directory that this program wrote.",
    )
    size = file.stat().st_size
    require(
        most is None or size <= most,
        f"{file} has {size} bytes, but a file like it has at most {most}. {way_out}",
    )
    value = parse_json(file.read_bytes(), file, way_out)
    require(
        isinstance(value, dict),
        f"{file} must hold a JSON object, but holds a {type(value).__name__}. {way_out}",
    )
    return value

"""Reads the settings of a flat YAML file: one `key: value` per line, with plain values.

Keys with nested values, aliases and tags are skipped.
"""

import re
from pathlib import Path
from typing import Any

from jaxgpt.errors import UserError

MOST = 2**20  # the most bytes of a file of settings
LINE = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,99}):(?:[ \t]+(.*))?")
CONSTANTS = {
    "": None, "null": None, "~": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
NUMBER = re.compile(r"[-+]?([0-9]{1,30}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][-+]?[0-9]{1,3})?")
QUOTED = re.compile(r"'[^']*'|\"[^\"\\]*\"")
WORD = re.compile(r"[A-Za-z0-9_][^#:{}\[\],&*!|>'\"%@`]*")


def read_flat_yaml(path: Path) -> dict[str, Any]:
    """The plain values at the top of the file `path`, by key."""
    size = path.stat().st_size
    if size > MOST:
        raise UserError(f"{path} has {size} bytes, which is more than settings take ({MOST}).")
    settings: dict[str, Any] = {}
    for line in path.read_text("utf-8", "replace").splitlines():
        match = LINE.fullmatch(line.rstrip())
        if match is None:
            continue
        text = re.sub(r"(^|[ \t]+)#.*", "", match[2] or "").strip()
        if text in CONSTANTS:
            settings[match[1]] = CONSTANTS[text]
        elif INTEGER.fullmatch(text):
            settings[match[1]] = int(text)
        elif NUMBER.fullmatch(text):
            settings[match[1]] = float(text)
        elif QUOTED.fullmatch(text):
            settings[match[1]] = text[1:-1]
        elif WORD.fullmatch(text):
            settings[match[1]] = text
    return settings

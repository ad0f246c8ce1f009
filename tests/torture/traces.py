"""What a command left in a folder, in a form that is equal for equal results."""

import json
import zipfile
from pathlib import Path
from typing import Any

import jax

from jaxgpt.file_names import MANIFEST, METRICS, PICTURE, STATE, WEIGHTS
from jaxgpt.storage import arrays
from jaxgpt.system import directories
from tests.torture.readings import plain

# The address where processes meet, the speed, and a checksum of names that orbax makes at random.
VARYING = {"mesh", "tokens_per_second", "base_sha256"}


def traces(folder: Path) -> dict[str, Any]:
    """The content of each file below `folder`, and the arrays in the folders that orbax wrote."""
    found: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name in (WEIGHTS, STATE):
            stored = jax.tree.map(lambda _: 0, arrays.stored_shapes(path))
            found[path.name] = plain(arrays.read(path, stored))
        elif path.is_dir():
            found[path.name] = traces(path)
        else:
            found[path.name] = _content(path)
    return found


def _content(path: Path) -> Any:
    if path.name == MANIFEST:
        directories.check_manifest(path.parent)
        return "whole"
    if path.name == PICTURE:
        return "a picture"
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as file:
            return {name: file.read(name) for name in file.namelist()}
    if path.name == METRICS:
        return [_constant(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        return _constant(json.loads(path.read_text()))
    return path.read_bytes()


def _constant(value: Any) -> Any:
    return (
        {name: one for name, one in value.items() if name not in VARYING}
        if isinstance(value, dict)
        else value
    )


def difference(ours: Any, theirs: Any, where: str = "") -> str:
    """The first place in which two traces differ, or ""."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted({*ours, *theirs}, key=str):
            if name not in ours or name not in theirs:
                return f"{where}/{name} is {'left behind' if name in ours else 'missing'}"
            if found := difference(ours[name], theirs[name], f"{where}/{name}"):
                return found
        return ""
    return "" if ours == theirs else f"{where} differs"

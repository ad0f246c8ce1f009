"""Checkpoints that others made, with the logits of the original code: local data, where it is present.

The variable JAXGPT_ZOO names the folder of the first ones; unset, it is `../shared/zoo` beside the
project. Modern decoders and files from public repositories are in `zoo2` and `zoo_wild` beside it.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

BESIDE = Path(__file__).parents[2] / "shared"
ZOO = Path(os.environ.get("JAXGPT_ZOO", BESIDE / "zoo"))
FOLDERS = {
    path.parent.name: path.parent
    for zoo in (ZOO, ZOO.parent / "zoo2", ZOO.parent / "zoo_wild")
    for path in sorted(zoo.glob("*/facts.json"))
}
ALL = {name: json.loads((folder / "facts.json").read_text()) for name, folder in FOLDERS.items()}
FACTS = {name: facts for name, facts in ALL.items() if FOLDERS[name].parent == ZOO}


def _visible(facts: dict[str, Any]) -> bool:
    return facts.get("visible_in_file") is not False


def _refused(facts: dict[str, Any]) -> bool:
    """Whether the entry is of a kind that is not supported."""
    fields = facts["fields"] or {}
    others = fields.get("cross_attention") or "encoder" in fields
    return bool(facts.get("refuse") or facts.get("outside") or others)


REFUSED = {name: facts for name, facts in ALL.items() if _visible(facts) and _refused(facts)}
SOUND_OF_ALL = {
    name: facts for name, facts in ALL.items() if _visible(facts) and not _refused(facts)
}
SOUND = {name: facts for name, facts in SOUND_OF_ALL.items() if name in FACTS}

needs_zoo = pytest.mark.skipif(not FACTS, reason=f"there are no checkpoints in {ZOO}")


def path_of(name: str) -> Path:
    """The file or folder of the entry `name`."""
    return FOLDERS[name] / (ALL[name]["file"] or "")


def given(facts: dict[str, Any]) -> dict[str, Any]:
    """The fields that no one can read from the file, as the entry's facts have them."""
    return {
        field: facts["fields"][field] for field in facts["undecidable"] if field in facts["fields"]
    }

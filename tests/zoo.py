"""Checkpoints that others made, with the logits of the code that made them: local data, where it is present.

The variable JAXGPT_ZOO names their folder; unset, it is `../shared/zoo` beside the project.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

BESIDE = Path(__file__).parents[2] / "shared"
ZOO = Path(os.environ.get("JAXGPT_ZOO", BESIDE / "zoo"))
FACTS = {
    path.parent.name: json.loads(path.read_text()) for path in sorted(ZOO.glob("*/facts.json"))
}
VISIBLE = {
    name: facts for name, facts in FACTS.items() if facts.get("visible_in_file") is not False
}
REFUSED = {
    name: facts
    for name, facts in VISIBLE.items()
    if facts["refuse"] or "cross_attention" in facts["fields"]
}
SOUND = {name: facts for name, facts in VISIBLE.items() if name not in REFUSED}

needs_zoo = pytest.mark.skipif(not FACTS, reason=f"there are no checkpoints in {ZOO}")


def path_of(name: str) -> Path:
    """The file or folder of the entry `name`."""
    return ZOO / name / (FACTS[name]["file"] or "")


def given(facts: dict[str, Any]) -> dict[str, Any]:
    """The fields that no one can read from the file, as the entry's facts have them."""
    return {
        field: facts["fields"][field] for field in facts["undecidable"] if field in facts["fields"]
    }

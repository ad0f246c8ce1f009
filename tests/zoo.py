"""Checkpoints that others made, with the logits of the original code: local data, where it is present.

The variable JAXGPT_ZOO names the folder of the first ones; unset, it is `../shared/zoo` beside the
project. Modern decoders and files from public repositories are in `zoo2` and `zoo_wild` beside it.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from jaxgpt.seq2seq_config import fields_of

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
    return bool(facts.get("refuse") or facts.get("outside"))


REFUSED = {name: facts for name, facts in ALL.items() if _visible(facts) and _refused(facts)}
SOUND_OF_ALL = {
    name: facts for name, facts in ALL.items() if _visible(facts) and not _refused(facts)
}
SOUND = {
    name: facts
    for name, facts in SOUND_OF_ALL.items()
    if name in FACTS and not facts["fields"].get("cross_attention")
}

needs_zoo = pytest.mark.skipif(not FACTS, reason=f"there are no checkpoints in {ZOO}")


def path_of(name: str) -> Path:
    """The file or folder of the entry `name`."""
    return FOLDERS[name] / (ALL[name]["file"] or "")


def given(facts: dict[str, Any]) -> dict[str, Any]:
    """The fields that no one can read from the file, as the entry's facts have them."""
    fields = facts["fields"]
    prefix = "encoder."
    own = {field: fields[field] for field in facts["undecidable"] if field in fields}
    encoder = {
        field.removeprefix(prefix): fields["encoder"][field.removeprefix(prefix)]
        for field in facts["undecidable"]
        if field.startswith(prefix)
    }
    return {**own, "encoder": encoder} if encoder else own


def different(config: Any, facts: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields in which `config` is not what the entry's facts say: (ours, theirs)."""
    known = fields_of(config)
    theirs = {f"encoder.{name}": v for name, v in facts["fields"].get("encoder", {}).items()}
    theirs |= facts["fields"]
    return {
        name: (known[name], value)
        for name, value in theirs.items()
        if name in known and known[name] != value and not name.endswith("dropout")
    }

"""Files that others made, with the logits of the code that made them: local data, which may lie beside the project."""

import json
from pathlib import Path

import numpy as np
import pytest

from convert import to_flax

torch = pytest.importorskip("torch", reason="torch is not installed")

ZOO = Path(__file__).parents[2] / "shared" / "zoo"
KNOWN = {"gptandchill"}  # what the files' notes call our dialect gpt
ENTRIES = [
    folder.parent
    for folder in sorted(ZOO.glob("*/facts.json"))
    if json.loads(folder.read_text()).get("dialect") in KNOWN
]


@pytest.mark.skipif(not ENTRIES, reason="there is no zoo of checkpoints beside the project")
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_logits_are_those_of_the_original_code(entry: Path) -> None:
    facts = json.loads((entry / "facts.json").read_text())
    expected = np.load(entry / "expected.npz")
    loaded = to_flax(entry / facts["file"], dtype="float64")
    for name, value in facts["fields"].items():
        assert getattr(loaded.config, name) == value, name
    assert set(facts["undecidable"]) <= loaded.report.assumed.keys()
    for suffix in ("", "_short"):
        reference = expected[f"logits64{suffix}"]
        difference = np.abs(np.asarray(loaded.model(expected[f"tokens{suffix}"])) - reference).max()
        assert difference < 1e-9 * np.abs(reference).max()

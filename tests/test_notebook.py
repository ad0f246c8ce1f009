"""The notebook docs/first_steps.ipynb: its cells run in order, in one process and an empty folder."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import ROOT

NOTEBOOK = json.loads((ROOT / "docs" / "first_steps.ipynb").read_text())
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_no_outputs_are_stored_and_text_stands_between_the_cells() -> None:
    assert not any(cell["outputs"] or cell["execution_count"] for cell in CODE)
    kinds = [cell["cell_type"] for cell in NOTEBOOK["cells"]]
    assert kinds[0] == kinds[-1] == "markdown"
    assert kinds.count("markdown") >= len(CODE) - 1


@pytest.fixture
def pyplot(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """matplotlib.pyplot without a screen; its figures are closed afterwards."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    monkeypatch.setenv("MPLBACKEND", "agg")
    module = importlib.import_module("matplotlib.pyplot")
    yield module
    module.close("all")


def test_the_cells_do_what_they_say(
    tmp_path: Path,
    pyplot: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # a kernel imports from its own folder
    scope: dict[str, Any] = {}
    printed = []
    for number, cell in enumerate(CODE):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), scope)
        printed.append(capsys.readouterr().out)
    sys.modules.pop("my_gpt")
    text = "\n".join(printed)
    for fact in (
        "Flax runs on cpu",
        "Head counts that fit are 1, 2, 4, 8, 16, 32, 64",
        "'num_heads': 4",
        "assumed: {'dropout': 0.0}",
        "\nproven\n",
        "attention (2, 1, 4, 19, 19) logits (1, 19, 96)",
        "<All keys matched successfully>",
        "the same logits, but for rounding: True",
    ):
        assert fact in text, text
    (figure,) = map(pyplot.figure, pyplot.get_fignums())
    assert [axis.get_title() for axis in figure.axes] == [f"head {i}" for i in range(4)]
    assert np.mean(scope["losses"][-30:]) < np.mean(scope["losses"][:30]) - 0.1
    assert max(stage.max for stage in scope["verification"].stages) < 1e-10
    assert {path.name for path in (tmp_path / "runs" / "first_steps").iterdir()} == {
        "model",
        "trained",
        "trained.pt",
    }

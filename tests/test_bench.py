"""Measurements say how they are called; what they measure is no test's business."""

import subprocess
import sys

import pytest

from tests.helpers import ROOT

pytest.importorskip("torch", reason="torch is not installed")  # most of them race against it

FOLDER = ROOT / "tests" / "bench"
NAMES = sorted(
    f".{file.stem}" for file in FOLDER.glob("[a-z]*.py") if "def main" in file.read_text()
)


@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_helps(name: str) -> None:
    command = [sys.executable, "-m", f"tests.bench{name}", "--help"]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert f"python -m tests.bench{name} " in outcome.stdout

"""Benchmarks support --help; what they measure is not tested."""

import runpy
import sys

import pytest

from tests.helpers import ROOT

pytest.importorskip("torch", reason="torch is not installed")  # most of them race against it

FOLDER = ROOT / "tests" / "bench"
NAMES = sorted(
    f".{file.stem}" for file in FOLDER.glob("[a-z]*.py") if "def main" in file.read_text()
)


@pytest.mark.parametrize("name", ["", *NAMES])
@pytest.mark.filterwarnings("ignore:'tests.bench:RuntimeWarning")  # imported by another, too
def test_help_is_printed(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module(f"tests.bench{name}", run_name="__main__")
    assert f"python -m tests.bench{name} " in capsys.readouterr().out

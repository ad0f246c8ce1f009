"""The pages of the commands, for files whose names are not harmless."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import to_torch
from convert.commands import fields_page
from convert.detect.report import Report
from convert.dialects import DIALECTS
from tests.helpers import config_of, random_params

torch = pytest.importorskip("torch", reason="torch is not installed")

RED = "\x1b[31mred\n"


def test_names_in_a_file_send_no_commands_to_the_terminal(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    config = config_of(DIALECTS["gpt"])
    state = to_torch(random_params(config, np.dtype("float32")), config, "gpt")
    inner = {f"{RED}.{name}": value for name, value in state.items()}
    file, model = tmp_path / "w.pt", tmp_path / "m"
    torch.save({"model": inner, RED: 1, f"{RED}2": torch.ones(3), "config": {RED: 1}}, file)
    for words in (
        ("inspect", file),
        ("to-flax", file, model),
        ("to-torch", model, tmp_path / "back.pt"),
    ):
        outcome = command("jaxgpt-convert", *words)
        assert outcome.code == 0
        assert "\x1b" not in outcome.out + outcome.err, words
    assert torch.load(tmp_path / "back.pt", weights_only=True)[RED] == 1


def test_fields_are_wrapped_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"vocab_size": 103, "context_length": 96, "extra_norms": ["sandwich", "embedding"]}
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    fields_page.show(Report(fields, {}, {}), "assumed")
    plain = capsys.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "34")
    fields_page.show(Report(fields, {}, {}), "assumed")
    wrapped = capsys.readouterr().out
    assert plain.count("\n") == 2
    assert wrapped.splitlines() == [
        "read:",
        "  vocab_size = 103,",
        "  context_length = 96,",
        "  extra_norms = ['sandwich',",
        "  'embedding']",
    ]

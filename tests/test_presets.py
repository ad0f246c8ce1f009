"""The presets of configs/, which commands accept by name in place of a config file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxgpt.presets import config_file, presets
from jaxgpt.settings import read_settings
from tests.helpers import ROOT, write_toml

FILES = {file.stem: file for file in (ROOT / "configs").glob("*.toml")}


def test_the_presets_are_the_files_in_configs() -> None:
    assert {name: file.resolve() for name, file in presets().items()} == FILES


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_preset_is_read_by_its_name(folder: Path) -> None:
    assert read_settings(Path("dates"), {}) == read_settings(FILES["dates"], {})


@pytest.mark.parametrize("name", ["quickstart", "quickstart.toml"])
def test_a_file_of_that_name_takes_precedence(name: str, folder: Path) -> None:
    write_toml(folder / name, {"train": {"steps": 3}})
    assert read_settings(Path("quickstart"), {}) == {"train": {"steps": 3}}


def test_a_folder_of_that_name_does_not_take_precedence(folder: Path) -> None:
    (folder / "quickstart").mkdir()
    assert config_file(Path("quickstart")).resolve() == FILES["quickstart"]


@pytest.mark.parametrize("verb", ["train", "plan"])
@pytest.mark.parametrize("name", ["quikstart", "configs/quickstart.toml", ".", "", "a" * 300])
def test_an_unknown_name_is_refused(
    verb: str, name: str, folder: Path, refused: Callable[..., str]
) -> None:
    refused("jaxgpt", verb, name)


def test_an_unknown_name_lists_the_presets(folder: Path, refused: Callable[..., str]) -> None:
    message = refused("jaxgpt", "plan", "quikstart")
    assert message.startswith(
        "jaxgpt: quikstart: there is no such file, and no preset of that name"
    )
    assert "Did you mean quickstart?" in message
    assert ", ".join(sorted(FILES)) in message


def test_plan_takes_a_preset(folder: Path, command: Callable[..., Any]) -> None:
    outcome = command("jaxgpt", "plan", "quickstart", "--model.vocab_size", "103")
    assert outcome.code == 0
    assert "quickstart on the devices at hand" in outcome.out

"""The README is true: its commands run, its example runs, its file tree is the files."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import LYRIC_SIZES, ROOT

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for kind, text in found if kind == language]


def test_commands_and_example_run_in_an_empty_folder(
    make_reference: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Any],
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    for name in ("configs", "README.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    torch.save(make_reference(LYRIC_SIZES).state_dict(), "weights.pt")
    lines = [
        shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()
    ]
    ours = [words for words in lines if words and words[0] in ("jaxgpt", "jaxgpt-convert")]
    assert len(ours) >= 9
    for words in ours:
        outcome = command(*words)
        wanted = (
            3 if words[1] == "probe" else 0
        )  # of a model of so few steps it can tell nothing, and says so
        assert outcome.code == wanted, (words, outcome)
    assert Path("back.pt").exists()
    scope: dict[str, Any] = {}
    for block in blocks("python"):
        exec(block, scope)
    assert scope["logits"].shape == (1, 3, 104)


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_file_tree_is_the_folders_and_top_modules() -> None:
    (tree,) = (block for block in blocks("") if block.startswith("jaxgpt/"))
    folder, listed = "", set()
    for line in tree.splitlines():
        name = line.split()[0]
        if line.startswith(" "):
            listed.add(folder + name)
        else:
            folder = name
    there = set()
    for package in ("jaxgpt", "convert"):
        there |= {f"{package}/{file.name}" for file in (ROOT / package).glob("*.py")}
        there |= {
            f"{package}/{file.parent.name}/" for file in (ROOT / package).glob("*/__init__.py")
        }
    assert listed == there - {"jaxgpt/__init__.py", "convert/__init__.py"}


def test_the_table_of_dialects_is_the_registry() -> None:
    from convert.dialects import table

    assert table() in README


def test_dialects_are_small_files() -> None:
    for file in (ROOT / "convert" / "dialects").glob("*.py"):
        assert len(file.read_text().splitlines()) < 60, file

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxgpt import file_names
from jaxgpt.errors import UserError
from jaxgpt.storage import run_directory
from jaxgpt.system import atomic_files, directories, json_files
from tests.helpers import settings, write_toml


def make(path: Path) -> Path:
    with directories.new_directory(path) as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "data.bin").write_bytes(bytes(range(100)))
        (partial / "note.txt").write_text("hello")
    return path


def test_a_written_directory_is_complete(tmp_path: Path) -> None:
    directories.check_manifest(make(tmp_path / "out"))
    assert [child.name for child in tmp_path.iterdir()] == ["out"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), directories.new_directory(tmp_path / "out") as partial:
        (partial / "half").write_text("half")
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), atomic_files.new_file(tmp_path / "file") as target:
        target.write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_kill_leaves_no_directory_of_that_name(tmp_path: Path) -> None:
    code = f"""
from jaxgpt.system.directories import new_directory
with new_directory({str(tmp_path / "out")!r}) as partial:
    (partial / "half").write_text("half")
    print("writing", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    directories.check_manifest(make(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_leftovers_of_a_killed_process_are_removed_but_not_those_of_a_running_one(
    tmp_path: Path,
) -> None:
    (tmp_path / f".out[1]{atomic_files.PARTIAL}123").write_text("half")
    (tmp_path / f".out[1]{atomic_files.PARTIAL}abc").mkdir()
    (tmp_path / f".out1{atomic_files.PARTIAL}123").write_text("half of another file")
    with directories.new_directory(tmp_path / "out[1]") as one:
        with pytest.raises(ZeroDivisionError), directories.new_directory(tmp_path / "out[1]"):
            raise ZeroDivisionError
        assert one.exists()
    assert {path.name for path in tmp_path.iterdir()} == {
        "out[1]",
        f".out1{atomic_files.PARTIAL}123",
    }


@pytest.mark.parametrize("named", ["nothing", "partial", "other"])
def test_an_error_names_the_file_and_not_its_temporary_name(named: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for new in (directories.new_directory, atomic_files.new_file):
        with pytest.raises(OSError, match="No space") as error, new(out) as partial:
            names = {"nothing": (), "partial": (str(partial / "data"),), "other": ("weights.pt",)}
            raise OSError(errno.ENOSPC, "No space left on device", *names[named])
        assert error.value.filename == ("weights.pt" if named == "other" else str(out))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    make(tmp_path / "out")
    with (
        pytest.raises(UserError, match="not an empty directory"),
        directories.new_directory(tmp_path / "out"),
    ):
        pass
    with (
        pytest.raises(UserError, match="exists, and is not"),
        atomic_files.new_file(tmp_path / "out" / "note.txt"),
    ):
        pass
    directories.check_manifest(tmp_path / "out")


@pytest.mark.parametrize("name", ["note.txt", "sub/data.bin"])
def test_every_flipped_bit_is_found_and_named(tmp_path: Path, name: str) -> None:
    file = make(tmp_path / "out") / name
    whole = file.read_bytes()
    for position in (0, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(UserError, match=f"{name} has sha256"):
            directories.check_manifest(tmp_path / "out")
    file.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=f"{name} has {len(whole) - 1} bytes, not {len(whole)}"):
        directories.check_manifest(tmp_path / "out")
    file.unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        directories.check_manifest(tmp_path / "out")


def test_a_folder_of_directories_names_those_in_it(tmp_path: Path) -> None:
    one, run = make(tmp_path / "one"), tmp_path / "run"
    (run / file_names.CHECKPOINTS).mkdir(parents=True)
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="Name one of the directories in it") as caught:
        directories.check_manifest(tmp_path)
    assert str(caught.value).endswith(f": {one}, {run}.")
    with pytest.raises(UserError, match="Name a model directory, a run or prepared data"):
        directories.check_manifest(tmp_path / "other")


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    manifest = make(tmp_path / "out") / file_names.MANIFEST
    for text, message in [("{", "is not JSON"), ("[]", "must hold"), ("{}", "not a manifest")]:
        manifest.write_text(text)
        with pytest.raises(UserError, match=message):
            directories.check_manifest(tmp_path / "out")
    (tmp_path / "secret").write_text("x")
    manifest.write_text(json.dumps({"files": {"../secret": {"bytes": 1, "sha256": ""}}}))
    with pytest.raises(UserError, match=r"\.\./secret lies outside"):
        directories.check_manifest(tmp_path / "out")
    for name in ("\ud800", "\0", "a" * 10_000):
        manifest.write_text(json.dumps({"files": {name: {"bytes": 1, "sha256": ""}}}))
        with pytest.raises(
            UserError, match="(is not|is too long for) the name of a file"
        ) as caught:
            directories.check_manifest(tmp_path / "out")
        assert str(caught.value).isprintable()
    with pytest.raises(UserError, match="is not a directory"):
        directories.check_manifest(tmp_path / "nowhere")


NESTED = "[" * 100_000


@pytest.mark.parametrize("text", [NESTED, "{", "[1]", '{"files": '])
def test_json_that_cannot_be_read_is_one_paragraph(text: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(
        UserError, match=r"config\.json (is not JSON: |must hold a JSON object, but holds a list)"
    ):
        json_files.read_json(file)
    with pytest.raises(UserError, match="has .* bytes, but a file like it has at most 0"):
        json_files.read_json(file, most=0)


@pytest.mark.parametrize("name", ["manifest.json", "config.json", "tokenizer.json"])
def test_a_model_directory_with_nested_json_is_refused(
    name: str, text: Path, tmp_path: Path, command: Callable[..., Any], refused: Callable[..., str]
) -> None:
    """A manifest that matches the nested file passes; the reader of the file must then not crash."""
    made = command(
        "jaxgpt", "train", write_toml(tmp_path / "config.toml", settings(text, tmp_path / "run"))
    )
    assert made.code == 0, made
    (checkpoint, *_) = (tmp_path / "run" / "checkpoints").glob("[!.]*")
    shutil.move(checkpoint, tmp_path / "model")
    (tmp_path / "model" / name).write_text(NESTED)
    if name != "manifest.json":
        directories.write_manifest(tmp_path / "model")
    message = refused("jaxgpt", "sample", tmp_path / "model", "--tokens", "2")
    assert "brackets are nested too deep" in message
    assert name in message


def test_nested_lines_of_metrics_are_skipped(tmp_path: Path) -> None:
    (tmp_path / run_directory.METRICS).write_text(NESTED + '\n{"step": 1, "loss": 2.0}\n')
    assert run_directory.read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]


def test_nested_settings_are_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "nested.toml").write_text(f"a = {NESTED}")
    assert "brackets are nested too deep" in refused("jaxgpt", "train", tmp_path / "nested.toml")

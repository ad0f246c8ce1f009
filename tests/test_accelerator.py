"""The script for accelerators, run at toy size, so that it works where there is an accelerator."""

import itertools
import json
import warnings
from pathlib import Path

import pytest

from tests.accelerator import SECTIONS, page, runner
from tests.helpers import TEXT

pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """The exit code and the folder of a run at toy size, all sections of it in this process."""
    out = tmp_path_factory.mktemp("accelerator")
    (out / "wood.txt").write_text(TEXT)

    def here(name: str, settings: dict[str, str], seconds: float) -> page.Result:
        runner.measure(f"{runner.PACKAGE}.{name}", seconds=seconds, **settings)
        return runner.result_of(name, out, error="", seconds=1.0)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("default")  # as in a process of its own
        patch.setattr(runner, "run", here)
        return runner.run_all(out, str(out / "wood.txt")), out


def test_every_section_has_its_figures(done: tuple[int, Path]) -> None:
    code, out = done
    written = json.loads((out / page.JSON).read_text())
    assert (code, written["failed"]) == (0, []), (out / page.MARKDOWN).read_text()
    sections = {section["name"]: section["rows"] for section in written["sections"]}
    assert list(sections) == list(SECTIONS)
    assert all(sections.values())
    text = (out / page.MARKDOWN).read_text()
    assert all(f"\n## {name.replace('_', ' ')}\n" in text for name in SECTIONS)
    assert "At toy size" in text


def test_what_needs_the_device_is_marked_as_not_measured(done: tuple[int, Path]) -> None:
    rows = {name: runner.read(done[1], name) for name in SECTIONS}
    timed = [row for row in rows["throughput"] if row["tokens/s"] is not None]
    assert {row["attention"] for row in timed} == {"xla", "chunked", "tiled"}
    assert all(row["MFU"] is None for row in rows["throughput"] + rows["torch_speed"])
    kernels = [row for row in rows["attention"] if row["form"] in ("cudnn", "splash")]
    assert kernels
    assert all(row["plain"] is None and "the device is cpu" in row["note"] for row in kernels)
    for row in itertools.chain.from_iterable(rows.values()):
        assert None not in row.values() or row["note"], row


# Sections that fail: what each does after its first row, and how that is reported. The slow one is
# the first, as sections pass on the time that they do not use.
FAILING = {
    "slow": ("import time; time.sleep(600)", "It was not done after 1 s."),
    "raising": ("raise ValueError('no device')", "ValueError: no device"),
    "wrong": ("yield {'verdict': 'WRONG'}", "1 of 2 rows are wrong."),
    "dying": ("import os; os._exit(3)", "It ended without a word."),
}


def test_a_section_that_fails_is_on_the_page_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd").mkdir()
    lines = {name: line for name, (line, _) in FAILING.items()}
    for name, line in (lines | {"fine": "yield {'after': None, 'note': 'it'}"}).items():
        (tmp_path / "odd" / f"{name}.py").write_text(
            f'"""About it."""\n\n\ndef measure(settings):\n    yield {{"first": 1}}\n    {line}\n'
        )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(runner, "PACKAGE", "odd")
    monkeypatch.setattr(runner, "PATIENCE", 1)
    seconds = dict.fromkeys([*FAILING, "fine"], 600) | {"slow": 1}
    monkeypatch.setattr(runner, "SECTIONS", seconds)
    assert runner.run_all(tmp_path, "python-docs") == 1
    written = json.loads((tmp_path / page.JSON).read_text())
    assert written["failed"] == [*FAILING]
    found = {section["name"]: section for section in written["sections"]}
    text = (tmp_path / page.MARKDOWN).read_text()
    for name, (_, error) in FAILING.items():
        assert found[name]["error"] == error
        assert name == "slow" or found[name]["rows"][0] == {"first": 1}
        assert f"**Failed:** {error}" in text
    assert not found["fine"]["error"]
    assert found["fine"]["rows"][1] == {"after": None, "note": "it"}
    assert "| not measured | it |" in text

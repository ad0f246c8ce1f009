"""The script for accelerators, run at toy size, so that it works where there is an accelerator."""

import itertools
import json
from pathlib import Path

import pytest

from tests.accelerator import SECTIONS, page, runner
from tests.helpers import TEXT

pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """The exit code and the folder of a run at toy size."""
    out = tmp_path_factory.mktemp("accelerator")
    (out / "wood.txt").write_text(TEXT)
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


@pytest.mark.parametrize(
    ("program", "seconds", "error"),
    [
        ("raise ValueError('no device')", 600, "ValueError: no device"),
        ("yield {'verdict': 'WRONG'}", 600, "1 of 2 rows are wrong."),
        ("import os; os._exit(3)", 600, "It ended without a word."),
        ("import time; time.sleep(600)", 1, "It was not done after 1 s."),
    ],
)
def test_a_section_that_fails_is_on_the_page_and_the_others_run(
    program: str, seconds: int, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd").mkdir()
    for name, line in (("failing", program), ("fine", "yield {'after': None, 'note': 'it'}")):
        (tmp_path / "odd" / f"{name}.py").write_text(
            f'"""About it."""\n\n\ndef measure(settings):\n    yield {{"first": 1}}\n    {line}\n'
        )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(runner, "PACKAGE", "odd")
    monkeypatch.setattr(runner, "PATIENCE", 1)
    monkeypatch.setattr(runner, "SECTIONS", {"failing": seconds, "fine": 600})
    assert runner.run_all(tmp_path, "python-docs") == 1
    written = json.loads((tmp_path / page.JSON).read_text())
    assert written["failed"] == ["failing"]
    assert [section["error"] for section in written["sections"]] == [error, ""]
    assert seconds == 1 or written["sections"][0]["rows"][0] == {"first": 1}
    assert written["sections"][1]["rows"][1] == {"after": None, "note": "it"}
    text = (tmp_path / page.MARKDOWN).read_text()
    assert f"**Failed:** {error}" in text
    assert "| not measured | it |" in text

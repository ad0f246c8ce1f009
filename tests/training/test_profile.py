"""A trace has exactly the requested steps."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxgpt.training.run import train
from tests.helpers import TEXT, settings


def traced(run: Path) -> list[list[int]]:
    """The steps in each trace in `run`, by their marks in the file for perfetto."""
    files = sorted((run / "profile").rglob("perfetto_trace.json.gz"))
    traces = [json.loads(gzip.decompress(file.read_bytes()))["traceEvents"] for file in files]
    return [
        sorted({int(e["args"]["step_num"]) for e in events if "step_num" in e.get("args", {})})
        for events in traces
    ]


def test_steps_are_traced_by_number_even_when_a_run_resumes(tmp_path: Path) -> None:
    (tmp_path / "wood.txt").write_text(TEXT)
    run, said = tmp_path / "run", []
    train(settings(tmp_path / "wood.txt", run, run={"profile": "3:4"}), "here", said.append)
    assert traced(run) == [[3, 4]]
    assert list((run / "profile").rglob("*.xplane.pb"))
    (line,) = (line for line in said if line.startswith("Traced the steps 3 to 4. Open "))
    assert f"xprof --logdir {run / 'profile'}" in line
    longer = settings(tmp_path / "wood.txt", run, run={"profile": "5:8"}, train={"steps": 9})
    train(longer, "here", said.append)  # which resumes after step 6
    assert traced(run) == [[3, 4], [7, 8]]
    assert any(line.startswith("Traced the steps 7 to 8. ") for line in said)


def test_a_run_without_the_setting_has_no_trace(tmp_path: Path) -> None:
    (tmp_path / "wood.txt").write_text(TEXT)
    run = train(
        settings(tmp_path / "wood.txt", tmp_path / "run"), "here", lambda line: None
    ).directory
    assert not (run / "profile").exists()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        *((bad, "profile takes the first and the last step") for bad in ("0:3", "5:4", "3", "a:b")),
        ("3:9", "run.profile 3:9 names steps after the last one: train.steps is 6"),
    ],
)
def test_wrong_steps_are_refused(
    value: str, said: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "wood.txt").write_text(TEXT)
    words = "--data.path", tmp_path / "wood.txt", "--run.dir", tmp_path / "run"
    words += "--train.steps", "6", "--run.profile", value
    assert said in refused("jaxgpt", "train", "configs/quickstart.toml", *words)

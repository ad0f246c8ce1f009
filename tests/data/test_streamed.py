"""An interrupted preparation of a streamed data set is resumed, and ends with the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxgpt.data import encoding, streamed
from jaxgpt.data.prepare import prepare
from jaxgpt.data.tokenizer_files import load
from jaxgpt.errors import UserError
from tests.helpers import ROOT

COUNT = 400


@pytest.fixture(params=["jsonl", "parquet"])
def corpus(request: pytest.FixtureRequest, datasets: None, tmp_path: Path) -> str:
    """A data set in three files."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    records = [{"text": "" if i == 7 else f"record {i}, " * (i % 5 + 1)} for i in range(COUNT)]
    for shard in range(3):
        part = records[shard::3]
        if request.param == "jsonl":
            lines = "".join(json.dumps(record) + "\n" for record in part)
            (folder / f"train-{shard}.jsonl").write_text(lines)
        else:
            pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
            table = pyarrow.Table.from_pylist(part)
            pyarrow.parquet.write_table(table, folder / f"train-{shard}.parquet", row_group_size=50)
    return f"hf:{folder}"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


OPTIONS: dict[str, dict[str, Any]] = {
    "char": {},
    "bpe": {"tokenizer": "bpe", "vocab_size": 270},
    "a part": {"tokenizer": "byte", "max_tokens": 5000},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_it_ends_with_the_same_bits_wherever_it_was_stopped(
    options: dict[str, Any], corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "TOGETHER", 1500)
    expected = files(prepare([corpus], tmp_path / "whole", **options).path)
    saved, stops = [], [1, 2, 1, 3]
    original = streamed.Streaming.save

    def stopping(what: Any, place: Any) -> None:
        original(what, place)
        saved.append(place.records)
        if stops and place.records and len(saved) % 4 == stops[0] % 4:
            stops.pop(0)
            raise KeyboardInterrupt

    monkeypatch.setattr(streamed.Streaming, "save", stopping)
    interrupted = 0
    while not (tmp_path / "out").exists():
        try:
            prepare([corpus], tmp_path / "out", **options)
        except KeyboardInterrupt:
            interrupted += 1
            with (tmp_path / ".out.unfinished" / "whole.bin").open("ab") as file:
                file.write(b"half a write")
    assert interrupted >= 2
    assert files(tmp_path / "out") == expected
    assert not (tmp_path / ".out.unfinished").exists()
    assert saved == sorted(saved), "no record is read again"


def test_it_equals_preparing_files_with_the_same_text(corpus: str, tmp_path: Path) -> None:
    data = prepare([corpus], tmp_path / "out", tokenizer="bpe", vocab_size=270)
    tokenizer = load(data.path)
    ids = np.concatenate([data.train, data.val])
    shown = "".join(chr(0) if i == tokenizer.eot else tokenizer.decode([i]) for i in ids.tolist())
    order = [i for shard in range(3) for i in range(shard, COUNT, 3) if i != 7]
    assert shown.split(chr(0)) == [f"record {i}, " * (i % 5 + 1) for i in order]


def test_the_first_tokens_are_those_of_the_whole(corpus: str, tmp_path: Path) -> None:
    whole, part = (
        prepare([corpus], tmp_path / name, tokenizer="byte", max_tokens=most)
        for name, most in (("whole", None), ("part", 1001))
    )
    found = np.concatenate([part.train, part.val])
    np.testing.assert_array_equal(found, np.concatenate([whole.train, whole.val])[:1001])
    (tmp_path / "in.txt").write_text("abcdefghij" * 10)
    text = prepare([str(tmp_path / "in.txt")], tmp_path / "text", max_tokens=25)
    assert (len(text.train), len(text.val)) == (22, 3)
    with pytest.raises(UserError, match="max_tokens must be positive, but is 0"):
        prepare([corpus], tmp_path / "none", max_tokens=0)


def test_other_settings_start_over(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "TOGETHER", 1500)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        original = streamed.Streaming.save

        def stop(what: Any, place: Any) -> None:
            original(what, place)
            if place.records > 100:
                raise KeyboardInterrupt

        patch.setattr(streamed.Streaming, "save", stop)
        prepare([corpus], tmp_path / "out", tokenizer="byte")
    expected = files(prepare([corpus], tmp_path / "whole").path)
    assert files(prepare([corpus], tmp_path / "out").path) == expected


def test_a_killed_process_is_resumed(
    corpus: str, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """SIGKILL, once some of the stream has been written."""
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import sys, time\n"
        "from jaxgpt.data import encoding, streamed\n"
        "from jaxgpt.__main__ import main\n"
        "encoding.TOGETHER = 1500\n"
        "save = streamed.Streaming.save\n"
        "def slowly(*what):\n"
        "    save(*what)\n"
        "    time.sleep(0.05)\n"
        "streamed.Streaming.save = slowly\n"
        "main()\n"
    )
    words = ["prepare", corpus, "--tokenizer", "byte", "--out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, slow, *words, tmp_path / "out"], env=environment, stderr=subprocess.PIPE
    )
    state = tmp_path / ".out.unfinished" / "stream.json"

    def records() -> int:
        return json.loads(state.read_text())["place"]["records"] if state.exists() else 0

    while process.poll() is None and records() < 100:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    at = records()
    assert 100 <= at < COUNT
    outcome = command("jaxgpt", *words, str(tmp_path / "out"))
    assert outcome.code == 0
    assert f"resuming after record {at}" in outcome.err
    expected = prepare([corpus], tmp_path / "whole", tokenizer="byte")
    assert files(tmp_path / "out") == files(expected.path)

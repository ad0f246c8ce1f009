import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

import jaxgpt
from jaxgpt.generation import export
from tests.helpers import CONFIGS, PROGRAMS, random_model


def test_it_runs_in_a_process_without_jaxgpt(
    model: Path, tmp_path: Path, command: Callable[..., Any], refused: Callable[..., str]
) -> None:
    outcome = command(
        "jaxgpt", "export", model, "--out", tmp_path / "model.zip", "--batch-size", "2"
    )
    assert outcome.code == 0, outcome
    about = json.loads(zipfile.ZipFile(tmp_path / "model.zip").read("about.json"))
    assert about["model"] == vars(jaxgpt.load(model).config)
    ids = np.random.default_rng(0).integers(0, 12, (2, 16)).astype(np.int32)
    np.save(tmp_path / "ids.npy", ids)
    ran = subprocess.run(
        [sys.executable, PROGRAMS / "run_export.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    whole = np.asarray(jaxgpt.load(model)(ids))
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), whole[:, 4:], atol=1e-4)
    assert "exists, and is not overwritten" in refused(
        "jaxgpt", "export", model, "--out", tmp_path / "model.zip"
    )
    for size in ("0", "1000000000000"):
        words = ["--out", tmp_path / "b.zip", "--batch-size", size]
        assert "must be positive" in refused("jaxgpt", "export", model, *words)


def test_grouped_queries_and_rings_of_windows_are_exported() -> None:
    model = random_model("float32", **CONFIGS["gemma"])
    programs = export._programs(model, batch_size=2)
    prefill, decode = (
        jax_export.deserialize(programs[name]).call for name in ("prefill", "decode")
    )
    ids = np.random.default_rng(0).integers(0, 103, (2, 17)).astype(np.int32)
    whole, lengths = np.asarray(model(ids)), jnp.array([3, 9], jnp.int32)
    logits, cache = prefill(ids, lengths)
    assert [keys.shape for keys in cache[0]] == [(2, 1, slots, 8) for slots in (4, 17, 4)]
    for _ in range(5):
        np.testing.assert_allclose(logits, whole[[0, 1], lengths - 1], atol=1e-4)
        logits, cache = decode(cache, ids[[0, 1], lengths], lengths)
        lengths += 1


@pytest.mark.parametrize("now", [0.0, 1e10])
def test_a_wrong_system_clock_does_not_matter(
    now: float,
    model: Path,
    tmp_path: Path,
    command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A zip archive cannot store times before 1980 or after 2107."""
    monkeypatch.setattr(time, "time", lambda: now)
    assert command("jaxgpt", "export", model, "--out", tmp_path / "model.zip").code == 0
    with zipfile.ZipFile(tmp_path / "model.zip") as file:
        assert {info.date_time[0] for info in file.infolist()} == {1980}


def test_a_model_that_attends_to_a_source_is_refused(
    pair: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    for name in ("pair", "alone"):
        message = refused("jaxgpt", "export", pair.with_name(name), "--out", tmp_path / "a.zip")
        assert "attends to a source, but jaxgpt export takes only decoders without one" in message

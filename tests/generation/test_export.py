import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import jaxgpt

ELSEWHERE = """
import sys, zipfile
import jax, jax.export, numpy as np

file = zipfile.ZipFile("model.zip")
prefill, decode = (jax.export.deserialize(bytearray(file.read(name + ".stablehlo"))) for name in ("prefill", "decode"))
assert set(prefill.platforms) == {"cpu", "cuda", "tpu"}
ids = np.load("ids.npy")
logits, cache = prefill.call(np.where(np.arange(ids.shape[1]) < 5, ids, 0), np.array([5, 5], np.int32))
found = [logits]
for t in range(5, ids.shape[1]):
    logits, cache = decode.call(cache, ids[:, t], np.array([t, t], np.int32))
    found.append(logits)
np.save("logits.npy", np.stack(found, axis=1))
assert not any(name.startswith(("jaxgpt", "flax")) for name in sys.modules)
"""


def test_it_runs_in_a_process_that_knows_no_jaxgpt(
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
        [sys.executable, "-c", ELSEWHERE], cwd=tmp_path, capture_output=True, text=True
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

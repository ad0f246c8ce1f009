"""A conversion holds few parameters in memory at a time."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convert.dialects import DIALECTS
from convert.files import saving
from convert.rows import whole
from jaxgpt.config import ModelConfig
from jaxgpt.model import abstract_params
from jaxgpt.pytree import flatten
from tests.helpers import PROGRAMS

pytest.importorskip("torch", reason="torch is not installed")

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux says how much memory was used"
)

XL = ModelConfig(
    vocab_size=50257, context_length=1024, model_dim=1600, num_blocks=48, num_heads=25, qkv_bias=True, head_bias=False,
    tied=True, activation="gelu_tanh",
)  # fmt: skip
SMALL = ModelConfig(
    **{**vars(XL), "model_dim": 800, "num_blocks": 12, "head_dim": 32, "mlp_dim": 3200}
)


def peak(*arguments: object) -> int:
    done = subprocess.run(
        [sys.executable, PROGRAMS / "peak_memory.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.splitlines()[-1])


def make(path: Path, config: ModelConfig) -> int:
    """Made up, and no larger in memory than its largest tensors; returns the bytes of all."""
    rng = np.random.default_rng(0)
    paths = {name: leaf.shape for name, leaf in flatten(abstract_params(config)).items()}
    random = rng.standard_normal(2**22, np.float32)

    def one(name: str) -> np.ndarray:
        return np.resize(random, paths[name])

    dtypes = dict.fromkeys(paths, np.dtype("float32"))
    tensors = whole.stream(DIALECTS["gpt2"], config, dtypes, one)
    saving.save(path, tensors)
    return sum(each.nbytes for name, each in tensors.tensors.items() if name != "lm_head.weight")


@pytest.mark.parametrize(
    ("config", "suffix", "most"),
    [
        (SMALL, ".pt", 1.15e9),  # of which the libraries take 0.45, and 0.6 with torch
        pytest.param(XL, ".pt", 5.0e9, marks=pytest.mark.slow),
        pytest.param(XL, ".safetensors", 5.0e9, marks=pytest.mark.slow),
    ],
    ids=["small", "xl-pt", "xl-safe"],
)
def test_memory_is_bounded(config: ModelConfig, suffix: str, most: float, tmp_path: Path) -> None:
    weights = make(tmp_path / "made.safetensors", config)
    heads = f"num_heads={config.num_heads}"
    source = tmp_path / "made.safetensors"
    there = peak("to-flax", source, tmp_path / "model", "--set", heads)
    back = peak("to-torch", tmp_path / "model", tmp_path / f"back{suffix}")
    figures = [there, back]
    source.unlink()
    if suffix == ".pt":
        (tmp_path / "model").rename(tmp_path / "first")
        figures.append(peak("to-flax", tmp_path / "back.pt", tmp_path / "model", "--set", heads))
    print(
        f"weights {weights / 1e9:.2f} GB, beyond them {[round((figure - weights) / 1e9, 2) for figure in figures]} GB"
    )
    assert max(figures) < most

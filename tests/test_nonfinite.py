"""Non-finite weights and moments are reported wherever they are used, and never saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxgpt
from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.storage import model_directory
from tests.helpers import settings, write_toml
from tests.torture.odd_files import write_ids

CONFIG = ModelConfig(vocab_size=7, context_length=4, model_dim=6, num_blocks=1, num_heads=2)


@pytest.fixture(params=[np.nan, np.inf], ids=str)
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model directory with one such weight, next to prepared ids."""
    model = jaxgpt.GPT(CONFIG, seed=1)
    params = jax.tree.map(np.array, jaxgpt.params_of(model))
    params["head"]["kernel"][0, 3] = request.param
    model_directory.save(tmp_path / "model", CONFIG, params)
    write_ids(tmp_path / "data", np.arange(40) % 7, 7)
    return tmp_path / "model"


def test_every_use_of_non_finite_weights_is_refused(
    damaged: Path, tmp_path: Path, command: Callable[..., Any], refused: Callable[..., str]
) -> None:
    data, out = f"--data={tmp_path / 'data'}", tmp_path / "out"
    assert "its weights are damaged" in refused("jaxgpt", "eval", damaged, data)
    assert "NaN or infinite" in refused("jaxgpt", "export", damaged, f"--out={out}")
    assert "its weights are damaged" in refused("jaxgpt", "look", damaged, "--text=1 2")
    said = command("jaxgpt", "sample", damaged, "--prompt=1 2")
    assert (said.code, "its weights are damaged" in said.err) == (2, True)
    words = "train", "--init", damaged, f"--data.path={tmp_path / 'data'}", f"--run.dir={out}"
    assert "training cannot repair these" in refused("jaxgpt", *words, "--train.save_every=1")
    assert not out.exists()
    with pytest.raises(UserError, match="its weights are damaged"):
        jaxgpt.score(jaxgpt.load(damaged), [[1, 2, 3]])


def test_a_run_with_non_finite_moments_does_not_resume(
    text: Path, tmp_path: Path, command: Callable[..., Any], refused: Callable[..., str]
) -> None:
    run = tmp_path / "run"
    config = write_toml(tmp_path / "it.toml", settings(text, run))
    assert command("jaxgpt", "train", config).code == 0
    checkpoint = run / "checkpoints" / "step-00000006"
    opened = model_directory.ModelDirectory(checkpoint)
    like = model_directory.arrays.stored_shapes(checkpoint / "state")
    state = model_directory.arrays.read(checkpoint / "state", like)
    odd = jax.tree.map(lambda x: x * np.nan if x.dtype == np.float32 else x, state)
    params, about = opened.params(), dict(opened.about)
    checkpoint.rename(tmp_path / "before")
    tokenizer = model_directory.load_tokenizer(tmp_path / "before")
    model_directory.save(
        checkpoint, opened.config, params, about, tokenizer, state=odd, metrics=b""
    )
    assert "moments of its optimiser" in refused("jaxgpt", "train", config, "--train.steps=9")


def test_weights_that_overflow_in_a_step_are_not_saved(
    text: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    """The step's loss was finite: it is that of the weights before the update."""
    config = write_toml(tmp_path / "it.toml", settings(text, tmp_path / "run"))
    rate = "--optim.learning_rate=1e38", "--optim.warmup_steps=0", "--optim.weight_decay=1000"
    said = refused("jaxgpt", "train", config, *rate, "--train.save_every=1")
    assert "After step 1 weights, or moments of the optimiser, are NaN or infinite" in said
    assert not (tmp_path / "run" / "checkpoints").exists()

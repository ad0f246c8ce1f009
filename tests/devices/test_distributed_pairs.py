"""Two processes train an encoder-decoder as one device does, and resume with the same bits."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxgpt.data.prepare_pairs import prepare_pairs
from jaxgpt.pytree import flatten
from jaxgpt.storage import run_directory
from tests.devices.test_distributed import Job, require_same, trained, weights
from tests.helpers import settings, write_toml

STEPS, SHARED = 8, ("--mesh.data", 1, "--mesh.fsdp", 2, "--mesh.tensor", 2)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run whose steps do not depend on the total number of steps."""
    folder = tmp_path_factory.mktemp("pairs")
    prepare_pairs(["dates:100"], folder / "dates")
    sections = settings(
        folder / "dates",
        folder / "run",
        model={
            "vocab_size": 0,
            "context_length": 12,
            "model_dim": 16,
            "num_blocks": 1,
            "num_heads": 4,
            "dropout": 0.1,
        },
        encoder={"context_length": 40},
        optim={"schedule": "constant", "warmup_steps": 2, "eps": 1e-6, "label_smoothing": 0.1},
        train={
            "steps": STEPS,
            "batch_size": 8,
            "log_every": 1,
            "eval_every": 4,
            "sample_tokens": 0,
        },
    )
    return write_toml(folder / "config.toml", sections)


@pytest.fixture(scope="module")
def of_two(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes that share the weights."""
    return trained(2, config, tmp_path_factory.mktemp("two") / "run", *SHARED)


def test_two_processes_train_like_one_device(config: Path, of_two: Path, tmp_path: Path) -> None:
    one_device = {"JAX_NUM_CPU_DEVICES": "1"}
    with Job(1, config, tmp_path / "run", scheduler=lambda _: one_device) as job:
        codes, said = job.ends()
    assert codes == [0], said
    require_same(of_two, tmp_path / "run", STEPS)


def test_two_processes_resume_with_the_same_bits(
    config: Path, of_two: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(of_two, run)
    shutil.rmtree(run_directory.checkpoint_of(run, STEPS))  # as if it had never been reached
    assert [run_directory.step_of(path) for path in run_directory.checkpoints(run)] == [STEPS // 2]
    trained(2, config, run, *SHARED)
    figures = ("step", "loss", "val_loss", "gradient_norm")
    lines, expected = (
        [[line.get(name) for name in figures] for line in run_directory.read_metrics(each)]
        for each in (run, of_two)
    )
    assert lines == expected
    assert len(lines) == STEPS
    found = flatten(weights(run, STEPS))
    for path, value in flatten(weights(of_two, STEPS)).items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)

"""Runs whose process was killed resume and end with the same bits as an undisturbed one."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxgpt.config import Config, ModelConfig
from jaxgpt.model import abstract_params
from jaxgpt.settings import build
from jaxgpt.storage import model_directory, run_directory
from jaxgpt.storage.model_directory import ModelDirectory
from jaxgpt.system import atomic_files
from jaxgpt.training.step import besides_weights, init_state
from tests.helpers import settings, write_toml

# A save each 5 steps of about 2 ms: wherever a process dies, a save is nearly always under way.
SAVING = {"steps": 400, "save_every": 5, "eval_every": 40, "log_every": 3, "keep": 2}
Start = Callable[..., subprocess.Popen]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function (config, *words) -> a process that trains."""
    started: list[subprocess.Popen] = []

    def call(config: Path, *words: str, before: str = "true") -> subprocess.Popen:
        command = [sys.executable, "-m", "jaxgpt", "train", str(config), *words]
        shell = ["sh", "-c", f'{before}; exec "$@"', "sh", *command]
        started.append(
            subprocess.Popen(shell, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.communicate()


def said_until(process: subprocess.Popen, words: str) -> str:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if words in line:
            return said
    pytest.fail(
        f"{words!r} was never said, but {said}{process.stderr.read() if process.stderr else ''}"
    )


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    return out


def everything(run: Path) -> dict[str, Any]:
    """All that two runs must have in common."""
    opened = ModelDirectory(run_directory.checkpoints(run)[-1])
    config = build(
        Config, {k: v for k, v in opened.about.items() if k in Config.__dataclass_fields__}, "it"
    )
    like = besides_weights(jax.eval_shape(lambda: init_state(config)))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    state = opened.state(like, jax.tree.map(lambda _: here, like))
    return {
        "params": opened.params(),
        "beside": state,
        "metrics": [{**line, "tokens_per_second": 0} for line in run_directory.read_metrics(run)],
        "kept": [path.name for path in run_directory.checkpoints(run)],
    }


def assert_same_bits(one: Path, other: Path) -> None:
    a, b = everything(one), everything(other)
    assert a["metrics"] == b["metrics"]
    last = a["metrics"][-1]["step"]
    assert [line["step"] for line in a["metrics"]] == [
        n for n in range(1, last + 1) if n % 3 == 0 or n % 40 == 0
    ]
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_clean(run: Path) -> None:
    assert not [path for path in run.rglob("*") if ".partial-" in path.name]


@pytest.fixture
def configs(text: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The configs of two runs that differ only in their directory."""
    both = [
        settings(text, tmp_path / name, train=SAVING, optim={"ema": 0.9})
        for name in ("victim", "unharmed")
    ]
    victim, unharmed = (write_toml(tmp_path / f"{one['run']['dir']}.toml", one) for one in both)
    return victim, unharmed


def test_a_killed_and_stopped_run_ends_like_an_undisturbed_one(
    configs: tuple[Path, Path], start: Start, refused: Callable[..., str]
) -> None:
    victim, unharmed = configs
    moments = random.Random(0)
    for end in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        process = start(victim)
        said_until(process, "norm")
        if end == signal.SIGTERM:
            assert "is being trained by another process" in refused("jaxgpt", "train", victim)
        time.sleep(moments.uniform(0, 0.4))
        process.send_signal(end)
        out, err = process.communicate(timeout=600)
        if end == signal.SIGKILL:
            continue
        assert process.returncode == 128 + end, out + err
        newest = run_directory.checkpoints(victim.with_suffix(""))[-1]
        assert (
            f"Stopped by {end.name}. The last good checkpoint is {newest}; the same command resumes"
            in out
        )
        assert "Traceback" not in err
        assert_clean(victim.with_suffix(""))
    out = finish(start(victim))
    assert f"resuming from {victim.with_suffix('')}" in out
    assert_clean(victim.with_suffix(""))
    finish(start(unharmed))
    assert_same_bits(victim.with_suffix(""), unharmed.with_suffix(""))
    assert "there is nothing left to do" in finish(start(victim))


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_like_an_undisturbed_one(
    configs: tuple[Path, Path], start: Start
) -> None:
    victim, unharmed = configs
    longer = "--train.steps", "4000"
    finish(start(unharmed, *longer))  # compiles for both
    run, moments, inside = victim.with_suffix(""), random.Random(1), 0
    for i in range(20):
        process = start(victim, *longer)
        if i % 4:  # else at any moment from the start of the process on
            said_until(process, "compiling")
        time.sleep(moments.uniform(0, 3 if i % 4 else 6))
        assert process.poll() is None, "it was done before it could be killed: give it more steps"
        process.kill()
        process.wait()
        inside += bool(list((run / run_directory.CHECKPOINTS).glob(".step-*")))
    print(f"{inside} of 20 died inside a save")
    assert inside >= 3
    finish(start(victim, *longer))
    assert_same_bits(run, unharmed.with_suffix(""))


def test_a_full_disk_is_reported_and_loses_nothing(
    text: Path, tmp_path: Path, start: Start
) -> None:
    run = tmp_path / "run"
    config = write_toml(tmp_path / "config.toml", settings(text, run, model={"model_dim": 64}))
    finish(start(config))
    (good,) = run_directory.checkpoints(run)[-1:]

    longer = "--train.steps", "40"
    # No file may have more than 100 blocks, be they of 512 bytes or 1024; those of a checkpoint have.
    process = start(config, *longer, before="ulimit -f 100; unset JAX_COMPILATION_CACHE_DIR")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 1, out + err
    assert f"The last good checkpoint is {good}" in err
    assert len(err.strip().splitlines()) == 1, err
    assert_clean(run)
    assert f"resuming from {good}" in finish(start(config, *longer))


@pytest.mark.parametrize(
    ("number", "code"),
    [
        *(
            (number, 1)
            for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
        ),
        *((number, 2) for number in (errno.ENOENT, errno.EISDIR, errno.EACCES, errno.EPERM)),
    ],
)
@pytest.mark.parametrize("out", ["a.safetensors", "data"])
def test_exit_codes_when_a_run_cannot_be_written(
    out: str,
    number: int,
    code: int,
    tmp_path: Path,
    command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 if the system failed, 2 if the user lacks permission or named a wrong path."""
    config = ModelConfig(vocab_size=11, context_length=4, model_dim=6, num_blocks=1, num_heads=2)
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), abstract_params(config))
    model_directory.save(tmp_path / "model", config, params)

    def fail(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(atomic_files, "sync", fail)
    if out == "data":
        ended = command("jaxgpt", "prepare", "python-docs", "--out", tmp_path / out)
    else:
        ended = command(
            "jaxgpt-convert", "to-torch", tmp_path / "model", tmp_path / out, "--dialect", "gpt"
        )
    assert ended.code == code, ended
    assert "Errno" not in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert not (tmp_path / out).exists()

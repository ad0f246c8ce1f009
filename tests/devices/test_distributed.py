"""Several processes on this machine's loopback train one run, with the numbers of a single process."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxgpt.config import MeshConfig
from jaxgpt.devices import distributed
from jaxgpt.errors import UserError
from jaxgpt.pytree import flatten
from jaxgpt.storage import model_directory, run_directory
from tests.helpers import TEXT, settings, write_toml

DEVICES = 4  # of all processes together
SAMPLING = "--train.sample_tokens", 4  # by all of them too


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run whose steps do not depend on the total number of steps.

    With its usual eps, AdamW would amplify the rounding of the smallest gradients.
    """
    folder = tmp_path_factory.mktemp("config")
    (folder / "wood.txt").write_text(TEXT)
    sections = settings(
        folder / "wood.txt",
        folder / "run",
        model={"dropout": 0.1, "num_heads": 4, "model_dim": 16},
        optim={"schedule": "constant", "warmup_steps": 2, "eps": 1e-6},
        train={"steps": 10, "batch_size": 8, "log_every": 1, "eval_every": 5, "sample_tokens": 0},
    )
    return write_toml(folder / "config.toml", sections)


class Job(contextlib.AbstractContextManager["Job"]):
    def __init__(
        self,
        count: int,
        config: Path,
        run: Path,
        *options: object,
        of_each: dict[int, list[str]] | None = None,
        scheduler: Callable[[int], dict[str, str]] | None = None,
    ):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        several = (
            ["--mesh.coordinator", f"127.0.0.1:{port}", "--mesh.processes", str(count)]
            if count > 1
            else []
        )
        several = [] if scheduler else several
        self.run, self.processes = run, []
        for i in range(count):
            own = [*several, "--mesh.process", str(i)] if several else []
            words = ["train", config, "--run.dir", run, *options, *own, *(of_each or {}).get(i, [])]
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "jaxgpt", *map(str, words)],
                    env={
                        **os.environ,
                        "JAX_NUM_CPU_DEVICES": str(DEVICES // count),
                        **(scheduler(i) if scheduler else {}),
                    },
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def ends(self) -> tuple[list[int], list[str]]:
        """The exit code and the standard error of each process."""
        both = [process.communicate(timeout=600) for process in self.processes]
        assert not [
            line for out, err in both for line in (out + err).splitlines() if "[Gloo] Rank" in line
        ]
        return [process.returncode for process in self.processes], [err for _, err in both]

    def steps(self, count: int) -> None:
        """Wait until `count` steps are logged."""
        while len(run_directory.read_metrics(self.run)) < count:
            assert all(process.poll() is None for process in self.processes), self.ends()
            time.sleep(0.05)


def trained(count: int, config: Path, run: Path, *options: object) -> Path:
    with Job(count, config, run, *options) as job:
        codes, said = job.ends()
    assert codes == [0] * count, said
    return run


@pytest.fixture(scope="module")
def alone(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(1, config, tmp_path_factory.mktemp("alone") / "run", "--train.steps", 15)


def require_same(ours: Path, alone: Path, steps: int) -> None:
    theirs = {line["step"]: line for line in run_directory.read_metrics(alone)}
    lines = run_directory.read_metrics(ours)
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    for line in lines:
        assert line["loss"] == pytest.approx(theirs[line["step"]]["loss"], abs=1e-5)
        if "val_loss" in line:
            assert line["val_loss"] == pytest.approx(theirs[line["step"]]["val_loss"], abs=1e-5)
    found, expected = (flatten(weights(run, steps)) for run in (ours, alone))
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, rtol=0, atol=1e-6, err_msg=path)


def weights(run: Path, step: int) -> Any:
    return model_directory.ModelDirectory(run_directory.checkpoint_of(run, step)).params()


@pytest.fixture(scope="module")
def of_four(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten steps of four processes, with weights sharded over them."""
    mesh = "--mesh.data", 1, "--mesh.fsdp", 2, "--mesh.tensor", 2
    return trained(4, config, tmp_path_factory.mktemp("four") / "run", *mesh, *SAMPLING)


def test_four_processes_that_share_the_weights_train_like_one(alone: Path, of_four: Path) -> None:
    require_same(of_four, alone, 10)


def test_adapters_of_two_processes_are_those_of_one(
    config: Path, alone: Path, tmp_path: Path
) -> None:
    """Their frozen model, of which each holds a part, is stored whole in the run."""
    options = "--run.init", alone, "--train.lora_rank", 2
    one = trained(1, config, tmp_path / "one", *options)
    two = trained(2, config, tmp_path / "two", *options, "--mesh.fsdp", DEVICES)
    require_same(two, one, 10)
    base, init = (model_directory.ModelDirectory(path) for path in (two / "base", alone))
    for name in init.paths:
        np.testing.assert_array_equal(base.read(name), init.read(name))
    trained(2, config, two, *options, "--mesh.fsdp", DEVICES, "--train.steps", 12)


@pytest.mark.parametrize("count", [1, 2])
def test_a_checkpoint_of_four_processes_resumes_on_other_numbers(
    count: int, config: Path, alone: Path, of_four: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(of_four, tmp_path / "run")
    require_same(trained(count, config, tmp_path / "run", "--train.steps", 15), alone, 15)


def test_a_signal_to_one_process_stops_all_at_the_same_step(config: Path, tmp_path: Path) -> None:
    with Job(2, config, tmp_path / "run", "--train.steps", 100_000) as job:
        job.steps(7)
        job.processes[1].send_signal(signal.SIGTERM)
        codes, _ = job.ends()
    assert codes == [143, 143]
    last = run_directory.checkpoints(tmp_path / "run")[-1]
    assert run_directory.step_of(last) == run_directory.read_metrics(tmp_path / "run")[-1]["step"]
    assert model_directory.ModelDirectory(last).about["step"] == run_directory.step_of(last)


@pytest.fixture
def killed(config: Path, tmp_path: Path) -> Path:
    run = tmp_path / "run"
    with Job(2, config, run, "--train.steps", 100_000, "--mesh.timeout", 30) as job:
        job.steps(12)
        job.processes[1].kill()
        codes, _ = job.ends()
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, None)
    return run


def test_after_one_process_is_killed_all_resume_from_the_last_checkpoint(
    killed: Path, config: Path, alone: Path
) -> None:
    last = run_directory.step_of(run_directory.checkpoints(killed)[-1])
    run = trained(2, config, killed, "--train.steps", last + 5)
    lines = run_directory.read_metrics(run)
    assert [line["step"] for line in lines] == list(range(1, last + 6))
    theirs = {line["step"]: line["loss"] for line in run_directory.read_metrics(alone)}
    for line in lines[:15]:
        assert line["loss"] == pytest.approx(theirs[line["step"]], abs=1e-5)


def test_processes_with_different_configs_stop_and_name_the_difference(
    config: Path, tmp_path: Path
) -> None:
    of_each = {1: ["--optim.learning_rate", "0.5", "--train.seed", "3"]}
    with Job(2, config, tmp_path / "run", of_each=of_each) as job:
        codes, said = job.ends()
    assert codes == [2, 2]
    for text in said:
        assert "The processes of this run disagree: " in text
        assert "optim.learning_rate is 0.001 in process 0 and 0.5 in process 1" in text
        assert "train.seed is 0 in process 0 and 3 in process 1" in text
        assert "Traceback" not in text
    assert not run_directory.checkpoints(tmp_path / "run")


def test_under_slurm_two_processes_find_each_other_and_train_like_one(
    config: Path, alone: Path, tmp_path: Path
) -> None:
    def slurm(i: int) -> dict[str, str]:
        job = {
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
        }
        return {**job, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}

    options = "--mesh.coordinator", "auto", "--train.steps", 15, *SAMPLING
    with Job(2, config, tmp_path / "run", *options, scheduler=slurm) as job:
        codes, said = job.ends()
    assert codes == [0, 0], said
    require_same(tmp_path / "run", alone, 15)


def test_without_a_known_cluster_coordinator_auto_is_refused(config: Path, tmp_path: Path) -> None:
    with Job(1, config, tmp_path / "run", "--mesh.coordinator", "auto") as job:
        codes, said = job.ends()
    assert codes == [2]
    assert "did not find each other" in said[0]
    assert "Traceback" not in said[0]


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_never_joins_is_reported_after_the_timeout(
    process: int, config: Path, tmp_path: Path
) -> None:
    words = [
        "--mesh.coordinator",
        "127.0.0.1:9",
        "--mesh.processes",
        2,
        "--mesh.process",
        process,
        "--mesh.timeout",
        5,
    ]
    if process == 0:
        words[1] = "127.0.0.1:29641"
    with Job(1, config, tmp_path / "run", *words) as job:
        codes, said = job.ends()
    assert codes == [1]
    assert (
        f"process {process} timed out after 5 seconds at {words[1]}: not all 2 processes of the run joined"
        in said[0]
    )
    assert "*** Check failure" not in said[0]


def test_a_mesh_for_other_devices_stops_all(config: Path, tmp_path: Path) -> None:
    with Job(2, config, tmp_path / "run", "--mesh.data", 3) as job:
        codes, said = job.ends()
    assert codes == [2, 2]
    assert all(
        "mesh.data 3 x mesh.fsdp 1 x mesh.tensor 1 makes 3 devices, but there are 4" in text
        for text in said
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"processes": 2}, "need coordinator"),
        ({"coordinator": "host:1", "processes": 2}, "process are 2 and -1"),
        ({"coordinator": "host", "processes": 2, "process": 0}, "needs a port"),
        ({"coordinator": "host:1", "processes": 2, "process": 2}, "process are 2 and 2"),
        ({"timeout": 0}, "timeout must be positive"),
    ],
)
def test_flags_that_make_no_sense_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        MeshConfig(**fields)


def test_a_run_of_several_processes_is_a_run_like_any_other(of_four: Path) -> None:
    config = json.loads((of_four / "config.json").read_text())
    assert config["mesh"]["processes"] == 4
    assert {path.name for path in of_four.iterdir()} >= {
        "metrics.jsonl",
        "loss.png",
        "checkpoints",
        "data",
    }
    assert not [path for path in (of_four / "checkpoints").iterdir() if path.name.startswith(".")]


GLOO = "UNKNOWN: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:49572"


@pytest.mark.parametrize(
    ("error", "from_peer"),
    [
        (jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out"), True),
        (ValueError(GLOO), True),
        (ValueError("operands could not be broadcast together"), False),
        (UserError("There is no such run."), False),
    ],
)
def test_errors_caused_by_another_process_are_recognised(
    error: Exception, from_peer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not distributed.from_peer(error)  # there is no other
    monkeypatch.setattr(distributed, "is_multi_process", lambda: True)
    assert distributed.from_peer(error) is from_peer


def test_lines_of_gloo_are_dropped_and_all_others_pass() -> None:
    """Including lines from C++ and from child processes, until the very end."""
    code = (
        "import os, subprocess, sys\n"
        "from jaxgpt.devices.distributed import without_gloo\n"
        "print('first'); without_gloo(); print('printed', sys.stdout.isatty())\n"
        "os.write(1, b'[Gloo] Rank 0 is connected to 1 peer ranks.\\nan error\\n[Gloo] failed\\n')\n"
        "subprocess.run(['echo', 'a program'], check=True)\n"
        "os.write(1, b'[Gloo] Rank 1 is connected\\nthe last\\n')"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert outcome.returncode == 0, outcome
    lines = ["first", "printed False", "an error", "[Gloo] failed", "a program", "the last"]
    assert sorted(outcome.stdout.splitlines()) == sorted(lines)
    assert outcome.stderr == ""

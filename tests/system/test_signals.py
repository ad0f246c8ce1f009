import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.storage import model_directory
from jaxgpt.system.signals import Stopped, signals
from tests.helpers import PRIMES, PROGRAMS, random_params

LONG = 60.0  # seconds for what comes at once, on a machine that is busy with other tests


@pytest.fixture(autouse=True)
def hangup() -> Iterator[None]:
    """Set SIGHUP to its default, even if these tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_at_once_unless_held_and_the_second_always_does(number: int) -> None:
    before = signal.getsignal(number)
    with signals() as kept:
        with pytest.raises(Stopped, match=str(int(number))):
            os.kill(os.getpid(), number)
        assert kept.caught == number  # in case whoever was interrupted swallowed it
        kept.caught = None
        kept.held = True
        os.kill(os.getpid(), number)
        assert kept.caught == number
        with pytest.raises(Stopped):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_under_nohup_sighup_is_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with signals():
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_an_error_raised_from_the_exception_of_a_signal_becomes_that_signal() -> None:
    """jax does that to any exception raised inside a trace."""
    with pytest.raises(Stopped, match=str(int(signal.SIGINT))), signals():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except Stopped as stopped:
            raise ValueError("it cannot be traced") from stopped
    with pytest.raises(ValueError, match="of its own"), signals():
        raise ValueError("of its own")


def test_outside_the_main_thread_no_handler_is_installed() -> None:
    found = []

    def ask() -> None:
        with signals() as kept:
            found.append(kept.caught)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert found == [None]


def test_a_signal_lost_in_garbage_collection_is_raised_again() -> None:
    """jax has a callback there, and an exception in a callback is only printed."""

    def interrupted(phase: str, info: dict) -> None:
        gc.callbacks.remove(interrupted)
        os.kill(os.getpid(), signal.SIGTERM)

    before = sys.unraisablehook
    with signals():
        gc.callbacks.append(interrupted)
        gc.collect()
        with pytest.raises(Stopped, match=str(int(signal.SIGTERM))):
            threading.Event().wait(LONG)
    assert sys.unraisablehook is before


def test_the_import_of_a_library_is_not_interrupted() -> None:
    """jaxlib would crash, and others would leave half a module behind."""
    done = subprocess.run(
        [sys.executable, PROGRAMS / "interrupted_import.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "imported\n", "")


def test_a_stopped_command_ends_before_the_teardown() -> None:
    done = subprocess.run(
        [sys.executable, PROGRAMS / "late_teardown.py"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "finally\n", "")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose programs take long to compile, because they contain all blocks unrolled."""
    path = tmp_path_factory.mktemp("many") / "blocks"
    config = ModelConfig(**{**PRIMES, "num_blocks": 8})
    model_directory.save(path, config, random_params(config, np.dtype("float32")))
    return path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("program", ["start_rows", "empty", "cached_steps"])
def test_a_signal_during_compilation_ends_the_command(
    program: str, number: int, model: Path
) -> None:
    environment = {
        **os.environ,
        "JAX_LOG_COMPILES": "1",
        "JAX_ENABLE_COMPILATION_CACHE": "0",
        "XLA_FLAGS": "",
    }
    command = [
        sys.executable,
        "-m",
        "jaxgpt",
        "sample",
        str(model),
        "--prompt",
        "1",
        "--tokens",
        "50000",
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        assert process.stderr is not None
        log = []
        for line in process.stderr:
            log.append(line)
            if f"MLIR module conversion jit({program})" in line:  # what comes next is XLA
                process.send_signal(number)
        assert process.wait(LONG) == 128 + number, log[-5:]
    assert "Traceback" not in "".join(log)


def test_a_terminated_command_leaves_no_partial_files(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "jaxgpt", "prepare", "-", "--out", str(tmp_path / "data")]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        while not list(tmp_path.iterdir()):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONG) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []

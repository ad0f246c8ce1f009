"""Runs of several processes: joining, agreeing on the settings, and stopping together."""

import atexit
import contextlib
import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgpt.config import MeshConfig
from jaxgpt.errors import Failure, UserError, require
from jaxgpt.pytree import flatten
from jaxgpt.system.signals import Signals, Stopped, signals, stop_signals

AUTO = "auto"
STDOUT = 1  # the file descriptor
START_AGAIN = "Start all of them again."
GLOO = b"[Gloo] Rank "  # the first bytes of a line about connections to other processes


def is_multi_process() -> bool:
    """Whether the run has several processes."""
    return jax.process_count() > 1


def is_process_zero() -> bool:
    """Whether this is process 0, the one that prints and that writes what is written only once."""
    return jax.process_index() == 0


def join_processes(config: MeshConfig) -> None:
    """Join the other processes of the run, before any other use of jax."""
    if not config.coordinator:
        return
    # Without this, jax would abort the process and print a page of addresses.
    watch = threading.Timer(config.timeout, _give_up, [config])
    watch.daemon = True
    watch.start()
    without_gloo()
    # SIGTERM ends the waiting at once; jax handles it after all processes have joined.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        jax.distributed.initialize(
            None if config.coordinator == AUTO else config.coordinator,
            config.processes or None,
            None if config.process < 0 else config.process,
            initialization_timeout=config.timeout + 60,
            heartbeat_timeout_seconds=config.timeout,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            "The processes of this run did not find each other: "
            f"{' '.join(str(error).split()).rstrip('.')}. mesh.coordinator {AUTO} works only under "
            "SLURM, Open MPI and on TPU pods; elsewhere give each process mesh.coordinator "
            "HOST:PORT, mesh.processes and mesh.process."
        ) from None
    finally:
        watch.cancel()


def without_gloo() -> None:
    """Drop the lines about connections that Gloo writes to standard output, and pass on the rest.

    C++ code prints them when a group of devices first connects, and no setting turns them off, so
    the file descriptor is filtered. Python's own output goes to another descriptor and bypasses the
    filter.
    """
    try:
        if sys.stdout.fileno() != STDOUT:
            return
    except (AttributeError, ValueError, OSError):  # standard output is missing or replaced
        return
    sys.stdout.flush()
    real = os.dup(STDOUT)
    source, sink = os.pipe()
    os.dup2(sink, STDOUT)
    os.close(sink)
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    buffering = 1 if os.isatty(real) else -1  # line-buffered on a terminal, as Python's own
    sys.stdout = open(real, "w", buffering, encoding, errors, closefd=False)  # noqa: SIM115

    def forward() -> None:
        with contextlib.suppress(OSError), open(source, "rb") as lines:
            for line in lines:
                if not line.startswith(GLOO):
                    os.write(real, line)

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()

    def restore() -> None:
        os.dup2(real, STDOUT)  # closes the pipe, which ends the thread
        thread.join(1)

    atexit.register(restore)


@contextlib.contextmanager
def alone_if_it_fails() -> Iterator[None]:
    """Exit at once on an error in one of several processes: jax would wait for the others."""
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        if is_multi_process():
            atexit.register(os._exit, 2 if isinstance(error, UserError) else 1)
            if from_peer(error):
                raise Failure(f"{unreachable(error)} {START_AGAIN}") from error
        raise
    except Stopped:
        if is_multi_process():
            jax.distributed.shutdown()  # waits for the others, so that none considers this one dead
        raise


def from_peer(error: Exception) -> bool:
    """Whether `error` is what jax raises when another process of the run does not answer.

    What Gloo reports is a ValueError where a program is started, and otherwise a JaxRuntimeError.
    """
    of_gloo = isinstance(error, ValueError) and "Gloo" in str(error)
    return is_multi_process() and (of_gloo or isinstance(error, jax.errors.JaxRuntimeError))


def unreachable(error: Exception) -> str:
    """A sentence for an `error` that comes `from_peer`."""
    reason = " ".join(str(error).split())[:200]
    return f"Another process of this run has ended, or cannot be reached: {reason}."


def _give_up(config: MeshConfig) -> None:
    """End the process with the reason: the others did not join in time."""
    others = f"all {config.processes} processes" if config.processes else "all processes"
    name = f"process {config.process}" if config.process >= 0 else "this one"
    text = (
        f"jaxgpt: {name} timed out after {config.timeout} seconds at {config.coordinator}: not "
        f"{others} of the run joined. Check that each was started, with the same mesh.coordinator "
        "and mesh.processes and a different mesh.process, and that it can reach that address; "
        "mesh.timeout sets how long to wait."
    )
    print(text, file=sys.stderr, flush=True)
    os._exit(1)


def wait_for_all(name: str) -> None:
    """Wait until all processes reach the barrier `name`."""
    if is_multi_process():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def require_agreement(about: Mapping[str, Any]) -> None:
    """Raise UserError in all processes, naming the differences, unless `about` is equal in all."""
    if not is_multi_process():
        return
    settings = [dict(flatten(json.loads(text))) for text in _texts_of_all(json.dumps(about))]
    names = dict.fromkeys(name for one in settings for name in one)
    different = [
        f"{name.replace('/', '.')} is {settings[0].get(name)} in process 0 and {one.get(name)} "
        f"in process {i}"
        for name in names
        for i, one in enumerate(settings)
        if one.get(name) != settings[0].get(name)
    ]
    require(
        not different,
        f"The processes of this run disagree: {'; '.join(different[:5])}. Start all of them with "
        "the same config, code and directory.",
    )


def _texts_of_all(text: str) -> list[str]:
    """The `text` of every process, in order."""
    from jax.experimental import multihost_utils

    own = np.frombuffer(text.encode(), np.uint8)
    lengths = np.ravel(multihost_utils.process_allgather(np.int32(len(own))))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(own)] = own
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]


def code_hash() -> str:
    """A hash of this package's source and jax's version, equal in processes that run the same
    code."""
    digest = hashlib.sha256(jax.__version__.encode())
    package = Path(__file__).parents[1]
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + file.read_bytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def catch_stop_signals() -> Iterator[Signals]:
    """The signals that stop the run.

    With several processes jax handles SIGTERM, which must reach all of them; the other signals send
    it.
    """
    if not is_multi_process():
        with signals() as own:
            yield own
        return
    before = {
        number: signal.signal(number, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        for number in stop_signals()
        if number != signal.SIGTERM
    }
    try:
        yield Signals()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def signal_to_stop_at(step: int, caught: Signals) -> int | None:
    """The signal after which to stop at `step`, the same in all processes; None if none came."""
    if is_multi_process():
        from jax.experimental import multihost_utils

        if multihost_utils.reached_preemption_sync_point(step):
            return signal.SIGTERM
    return caught.caught

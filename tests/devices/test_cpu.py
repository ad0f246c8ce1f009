"""Each test uses its own process: devices are made once, and memory belongs to the process."""

import json
import os
import platform
import subprocess
import sys

import pytest

from tests.helpers import PROGRAMS


def run(program: str, *arguments: str, **environment: str) -> str:
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("NPROC", "XLA_FLAGS")
    }
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / program), *arguments],
        capture_output=True, text=True, env={**inherited, **environment}, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
def test_a_thread_for_each_device_and_one_program_at_a_time() -> None:
    """With no more threads than devices, two programs at a time could wait for each other forever."""
    devices, threads, ahead = json.loads(run("cpu_devices.py"))
    assert (devices, ahead) == (2, False)
    assert threads >= devices


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
def test_text_is_generated_with_a_device_for_each_core() -> None:
    assert int(run("writing_devices.py")) == len(os.sched_getaffinity(0))


def test_more_devices_than_cores_have_a_thread_each() -> None:
    found = json.loads(run("cpu_devices.py", XLA_FLAGS="--xla_force_host_platform_device_count=8"))
    assert found == [8, max(8, len(os.sched_getaffinity(0))), False]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives memory back")
def test_freed_memory_is_reused() -> None:
    """Twenty times 64 MB are 327,680 pages of 4 KB; how many faults they take depends on the size of pages."""
    kept, given_back = int(run("page_faults.py", "kept")), int(run("page_faults.py", "given back"))
    assert kept < 100 < given_back

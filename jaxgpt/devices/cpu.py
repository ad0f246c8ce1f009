"""Settings that make a CPU fast: a device for each core, and freed memory that is reused."""

import contextlib
import ctypes
import math
import os
import re

import jax

from jaxgpt.config import MeshConfig

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # from glibc's malloc.h


def use_devices(config: MeshConfig) -> None:
    """Set up a CPU for training: the devices that `config` asks for, and `keep_memory`."""
    asked = math.prod((config.data, config.fsdp, config.tensor)) // max(config.processes, 1)
    make_devices(asked if 0 < asked <= cores() else 0)
    # Run one program at a time: devices that wait for each other block their threads, and two
    # programs could block all threads forever.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    keep_memory()


def make_devices(count: int = 0) -> None:
    """Set the number of CPU devices to `count`, or one for each core; settings of jax come first.

    What XLA computes on a single thread then runs on all cores. The first computation of the
    process fixes the number; later calls change nothing.
    """
    flag = re.search(r"host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    count = (
        int(flag[1]) if flag else int(os.environ.get("JAX_NUM_CPU_DEVICES", 0)) or count or cores()
    )
    # Give XLA's pool one thread for each device and no more: on two cores, four threads make a step
    # a fifth longer.
    os.environ.setdefault("NPROC", str(max(count, cores())))
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)


def cores() -> int:
    """The number of cores that this process may use, or of all cores if the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_memory() -> None:
    """Let glibc reuse large freed blocks; other C libraries are left alone.

    By default glibc returns these to the system; allocating them again costs a step 180,000 page
    faults, a sixth of its time.
    """
    with contextlib.suppress(OSError, AttributeError):
        malloc = ctypes.CDLL(None)
        for option, value in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)):
            malloc.mallopt(option, value)

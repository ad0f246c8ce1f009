"""What makes a CPU quick: devices for its cores, and memory that is kept. Knows nothing of what is computed."""

import contextlib
import ctypes
import math
import os
import re

import jax

from jaxgpt.config import MeshConfig

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def use_devices(config: MeshConfig) -> None:
    """For training: as many devices as the mesh asks for, one program at a time, and memory that is kept."""
    asked = math.prod((config.data, config.fsdp, config.tensor)) // max(config.processes, 1)
    make_devices(asked if 0 < asked <= cores() else 0)
    # Devices that wait for each other hold their threads, and two programs at a time could take all of them and wait
    # forever.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    keep_memory()


def make_devices(count: int = 0) -> None:
    """On a CPU, so many, or one for each core, unless jax was told another number: what XLA computes on a single thread
    then runs on all of them. Must come before the first computation; later it changes nothing."""
    said = re.search(r"host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    count = (
        int(said[1]) if said else int(os.environ.get("JAX_NUM_CPU_DEVICES", 0)) or count or cores()
    )
    # A thread of XLA's pool for each device, and no more: on two cores, four threads make a step a fifth longer.
    os.environ.setdefault("NPROC", str(max(count, cores())))
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)


def cores() -> int:
    """That this process may use; macOS does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_memory() -> None:
    """Large blocks that were freed are used again. As it is, glibc gives them back to the system, and a step that gets
    them anew spends a sixth of its time in 180,000 page faults. Elsewhere than with glibc nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        malloc = ctypes.CDLL(None)
        for option, value in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)):
            malloc.mallopt(option, value)

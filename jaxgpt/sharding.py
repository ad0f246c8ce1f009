"""Which device holds what. The only room that makes meshes; knows names of axes, and no model."""

import contextlib
import os

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgpt.config import MeshConfig, require


def use_all_cores() -> None:
    """On a CPU, one device for each core: what XLA computes on a single thread then runs on all of them. Must come
    before the first computation; later it changes nothing."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # not on macOS
    # Devices that wait for each other in a collective each hold a thread of XLA's pool. With no more threads than
    # devices, two programs at a time can take all of them and wait forever.
    os.environ.setdefault("NPROC", str(2 * cores))
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores)


def make_mesh(config: MeshConfig, rows: int) -> Mesh:
    """For batches of so many rows."""
    devices = jax.devices()
    if config.data == -1:
        count = next(n for n in range(len(devices), 0, -1) if rows % n == 0)
        if count < len(devices):
            print(f"{rows} rows at a time divide among {count} of {len(devices)} devices; the others stay idle.")
    else:
        count = config.data
        require(count <= len(devices), f"mesh.data is {count}, but there are {len(devices)} devices.")
        require(rows % count == 0, f"mesh.data {count} does not divide the {rows} rows that are computed at a time.")
    return Mesh(np.asarray(devices[:count]), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def over_rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The rows of a batch, which are its given axis, divided among the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))

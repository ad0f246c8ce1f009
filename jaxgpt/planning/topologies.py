"""Compile-only devices: TPU slices and GPU machines by name, as the compiler describes them."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxgpt.devices.chips import CHIPS
from jaxgpt.errors import require
from jaxgpt.optional import installed

FLAT = ["1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"]
DEEP = [
    "2x2x1",
    "2x2x2",
    "2x2x4",
    "2x4x4",
    "4x4x4",
    "4x4x8",
    "4x8x8",
    "8x8x8",
    "8x8x16",
    "8x16x16",
    "16x16x16",
]
SLICES = {"v4": DEEP, "v5e": FLAT, "v5p": [*DEEP, "16x16x24"], "v6e": FLAT}


class Gpu(NamedTuple):
    """What the compiler needs to know about a GPU, beyond what `chips` has."""

    name: str
    capability: int
    cores: int
    clock_ghz: float
    cache: int  # bytes of level-2 cache
    shared: int  # bytes of shared memory in a core; a block can have 1 KiB less


GPUS = {
    "a100": Gpu("NVIDIA A100-SXM4-80GB", 8, 108, 1.41, 40 * 2**20, 164 * 2**10),
    "h100": Gpu("NVIDIA H100 80GB HBM3", 9, 132, 1.98, 50 * 2**20, 228 * 2**10),
    "h200": Gpu("NVIDIA H200", 9, 132, 1.98, 50 * 2**20, 228 * 2**10),
}
COUNTS = ["1", "2", "4", "8"]  # GPUs in one machine


TARGET = """
platform_name: "CUDA"
device_description_str: "{gpu.name}"
dnn_version_info {{ major: 9 minor: 8 }}
gpu_device_info {{
  cuda_compute_capability {{ major: {gpu.capability} }}
  core_count: {gpu.cores}
  clock_rate_ghz: {gpu.clock_ghz}
  device_memory_size: {memory}
  memory_bandwidth: {bandwidth}
  l2_cache_size: {gpu.cache}
  shared_memory_per_core: {gpu.shared}
  shared_memory_per_block_optin: {optin}
  shared_memory_per_block: 49152
  fpus_per_core: {fpus}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_core_limit: 2048
  threads_per_block_limit: 1024
  threads_per_warp: 32
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
"""
# Otherwise libtpu asks the network about its machine, which fails, and logs every failure.
ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def devices_of(name: str) -> list[Any]:
    """The devices of the topology `name`, to compile for; call it before the first computation."""
    kind, _, shape = name.partition(":")
    shapes_of = {**SLICES, **dict.fromkeys(GPUS, COUNTS)}
    near = {kind: shapes_of[kind]} if kind in shapes_of else shapes_of
    listed = "; ".join(f"{kind}: followed by {', '.join(shapes)}" for kind, shapes in near.items())
    require(shape in shapes_of.get(kind, []), f"There is no topology {name}. There are {listed}.")
    return _gpus(kind, shape) if kind in GPUS else _slice(kind, shape)


def _slice(kind: str, shape: str) -> list[Any]:
    """The devices of a slice of TPUs."""
    _require_library(["libtpu"], f"{kind}:{shape}", "libtpu, the compiler for TPUs", "jax[tpu]")
    os.environ.update(ALONE)
    # On v4, jax counts a chip as one device.
    options: dict[str, Any] = {"chip_config_name": "megacore"} if kind == "v4" else {}
    options |= {"chips_per_host_bounds": (1, 1, 1)} if shape == "1x1" else {}
    return _devices_of("tpu", topology_name=f"{kind}:{shape}", **options)


def _gpus(kind: str, count: str) -> list[Any]:
    """The devices of a machine with `count` GPUs."""
    plugins = [f"jax_plugins.xla_cuda{version}" for version in (13, 12)]
    _require_library(plugins, f"{kind}:{count}", "jax's plugin for CUDA", "jax[cuda12]")
    gpu = GPUS[kind]
    data_sheet = CHIPS[kind.upper()]
    sizes = {
        "memory": int(data_sheet.memory),
        "bandwidth": int(data_sheet.bandwidth),
        "optin": gpu.shared - 1024,
    }
    target = TARGET.format(gpu=gpu, fpus=64 if gpu.capability < 9 else 128, **sizes)
    return _devices_of("cuda", topology_name=kind, topology=f"1x1x{count}", target_config=target)


def _devices_of(platform: str, **options: Any) -> list[Any]:
    """The compile-only devices of `platform` that `options` describe to the compiler."""
    import jax
    from jax.experimental import topologies
    from jax.experimental.compilation_cache import compilation_cache

    jax.config.update("jax_platforms", "cpu")
    # A cached program for such devices could not be read back.
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    with quiet():
        return list(topologies.get_topology_desc(platform=platform, **options).devices)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence standard error at the level of the file descriptor.

    Compilers print there, bypassing Python, that their devices are missing. Real errors are raised.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _require_library(modules: list[str], topology: str, what: str, extra: str) -> None:
    """Raise an error that names `what` and `extra` unless one of `modules` is installed."""
    require(
        any(map(installed, modules)),
        f"Planning for {topology} needs {what}, which is not installed here: pip install "
        f"'{extra}', best in a separate environment. The device itself is not needed.",
    )

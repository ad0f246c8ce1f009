"""The mesh of a training run: its devices as named axes."""

import math
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh

from jaxgpt.config import MeshConfig
from jaxgpt.errors import require

# mesh.fsdp is split into two axes: `fsdp`, the part that divides the model's width, and `rest`, the
# remaining factor, which shards another dimension. GPT-2 XL's width of 1600 on 256 devices gives
# 64 and 4.
AXES = ("data", "fsdp", "rest", "tensor")
# The axes that shard the rows of a batch; the last two shard the weights as well.
ROWS = ("data", "fsdp", "rest")


def sizes(config: MeshConfig) -> tuple[int, ...]:
    return config.data, config.fsdp, config.tensor


def make_mesh(config: MeshConfig, rows: int, width: int, devices: list[Any] | None = None) -> Mesh:
    """Make the mesh for batches of `rows` rows, sharded over data and fsdp, and a model of `width`.

    The mesh has AXES and leaves idle those `devices` (by default all) that it cannot use.
    """
    devices = devices or jax.devices()
    shape = _shape(config, rows, devices)
    count, shares = math.prod(shape), shape[0] * shape[1]
    require(
        rows % shares == 0,
        f"mesh.data x mesh.fsdp is {shares}, which does not divide the {rows} rows that are "
        "computed at a time: train.batch_size / train.accumulate must be a multiple of "
        f"{shares}.",
    )
    if count < len(devices):
        print(
            f"{rows} rows at a time divide among {count} of {len(devices)} devices; "
            "the others stay idle."
        )
        grid = np.asarray(devices[:count])
    else:  # places neighbours in the mesh next to each other in hardware
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    data, fsdp, tensor = shape
    divides = math.gcd(width, fsdp)
    return Mesh(grid.reshape(data, divides, fsdp // divides, tensor), AXES)


def shape_of(mesh: Mesh) -> dict[str, int]:
    """The sizes of `mesh`, by field of MeshConfig."""
    size = mesh.shape
    return {"data": size["data"], "fsdp": size["fsdp"] * size["rest"], "tensor": size["tensor"]}


def _shape(config: MeshConfig, rows: int, devices: list[Any]) -> tuple[int, ...]:
    """The sizes of data, fsdp and tensor, with -1 replaced by what `devices` allow."""
    asked, available = sizes(config), len(devices)
    product = math.prod(size for size in asked if size > 0)
    text = " x ".join(
        f"mesh.{axis} {size}" for axis, size in zip(("data", "fsdp", "tensor"), asked, strict=True)
    )
    if -1 not in asked:
        require(
            product == available,
            f"{text} makes {product} devices, but there are {available}.",
        )
        return asked
    require(
        available % product == 0,
        f"{text}: {product} does not divide the {available} devices that there are.",
    )
    remaining = available // product
    one_process = len({getattr(device, "process_index", 0) for device in devices}) == 1
    if config.data == -1 and one_process:  # use fewer devices where not all can share the rows
        remaining = next(
            n for n in range(remaining, 0, -1) if rows % (n * config.fsdp) == 0 or n == 1
        )
    return tuple(remaining if size == -1 else size for size in asked)

"""What a run would take on devices that may not be there: its own training step, compiled for them and read. Runs
nothing; knows no data but the size of its vocabulary."""

import dataclasses
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxgpt.config import Config, UserError
from jaxgpt.data.tokens import ABOUT, open_dataset
from jaxgpt.devices.chips import Chip, chip
from jaxgpt.devices.cpu import use_devices
from jaxgpt.devices.sharding import make_mesh
from jaxgpt.model import flops
from jaxgpt.planning.hlo import Traffic, collectives
from jaxgpt.planning.topologies import devices_of
from jaxgpt.settings import build
from jaxgpt.system.stages import Stage, silent
from jaxgpt.training.evaluate import fit_vocabulary
from jaxgpt.training.step import Compute, init_state, jitted_step, make_step


class Memory(NamedTuple):
    """Bytes on each device."""

    parameters: int
    optimizer: int  # and the average of the weights, where one is kept
    temporaries: int
    program: int
    total: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """Of one config on one mesh."""

    config: Config
    mesh: Mesh
    attention: str
    size: int  # parameters
    memory: Memory
    limit: float  # bytes that a device has for them
    operations: float  # in a step, of each device
    again: float  # the share of them that is computed a second time
    traffic: dict[str, Traffic]
    seconds: float  # that the compiler took
    text: str  # of the compiled program; none, if it was too large to be compiled

    @property
    def fits(self) -> bool:
        return bool(self.text) and self.memory.total <= self.limit

    @property
    def chip(self) -> Chip | None:
        return chip(self.mesh.devices.flat[0].device_kind)


def plan(
    settings: Mapping[str, Any], where: str, topology: str = "", stage: Stage = silent
) -> tuple[Plan, Plan | None]:
    """For a topology, or for the devices at hand; and, where it does not fit, the first change found that does."""
    config: Config = build(Config, settings, where)
    config = dataclasses.replace(config, model=sized(config))
    if not topology:
        use_devices(config.mesh)
    devices = devices_of(topology) if topology else jax.devices()
    stage("compiling", 0)
    found = compiled(config, devices)
    if found.fits:
        return found, None
    for other in smaller(config, found):
        stage(f"does not fit; trying {changes(config, other)}", 0)
        tried = compiled(other, devices)
        if tried.fits:
            return found, tried
    return found, None


def sized(config: Config) -> Any:
    """The model, whose vocabulary may be that of its data."""
    if (Path(config.data.path) / ABOUT).exists():
        return fit_vocabulary(config.model, open_dataset(Path(config.data.path)))
    if config.model.vocab_size:
        return config.model
    raise UserError(
        f"model.vocab_size is left to the data, and {config.data.path} has not been prepared: prepare it, or say "
        "--model.vocab_size N."
    )


def compiled(config: Config, devices: list[Any]) -> Plan:
    rows = config.train.batch_size // config.train.accumulate
    mesh = make_mesh(config.mesh, rows, config.model.model_dim, devices)
    step, where = jitted_step(config, mesh)
    like = jax.eval_shape(lambda: init_state(config))
    ids = jax.ShapeDtypeStruct(
        (config.train.accumulate, rows, config.model.context_length + 1), jnp.int32
    )
    operations, needed = _operations(config, like, ids)
    lowered, started = step.lower(like, ids), time.perf_counter()
    held = _bytes(like, where)
    parameters = _bytes(like.params, where.params)
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        text, temporaries, code = "", _asked(str(error)), 0
        total = held + temporaries
    else:
        stats = program.memory_analysis()
        text, temporaries, code = (
            program.as_text(),
            stats.temp_size_in_bytes,
            stats.generated_code_size_in_bytes,
        )
        total = (
            stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
        )
        total += temporaries + code
    return Plan(
        config,
        mesh,
        Compute.on(mesh, config.model, config.compute).attention,
        sum(leaf.size for leaf in jax.tree.leaves(like.params)),
        Memory(parameters, held - parameters, temporaries, code, total),
        _limit(devices),
        operations / mesh.size,
        1 - needed / operations,
        collectives(text) if text else {},
        time.perf_counter() - started,
        text,
    )


def _operations(config: Config, like: Any, ids: jax.ShapeDtypeStruct) -> tuple[int, int]:
    """In a step, and in one that computes nothing twice; attention without the blocks above the diagonal."""

    def counted(**settings: Any) -> int:
        compute = dataclasses.replace(config.compute, attention="chunked", **settings)
        changed = dataclasses.replace(config, compute=compute)
        return flops.of_program(jax.make_jaxpr(make_step(changed))(like, ids).jaxpr)

    return counted(), counted(remat="none", loss_chunks=1)


def _bytes(tree: Any, where: Any) -> int:
    """Of the part that one device has."""
    parts = zip(jax.tree.leaves(tree), jax.tree.leaves(where), strict=True)
    return sum(
        math.prod(lies.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, lies in parts
    )


def _asked(message: str) -> int:
    """Bytes of temporaries that a compiler could not find room for."""
    sizes = [
        float(n) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[unit]
        for n, unit in re.findall(r"([\d.]+)([KMGT])\b", message)
    ]
    return int(max(sizes, default=math.inf))


def _limit(devices: list[Any]) -> float:
    found = chip(devices[0].device_kind)
    if found and devices[0].platform == "gpu":
        return found.memory * gpu_share()
    if found:
        return found.memory
    return (
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / len(devices)
    )  # they share the machine's


def gpu_share() -> float:
    """What jax takes of a GPU's memory, unless it is told otherwise."""
    return float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75"))


def smaller(config: Config, found: Plan) -> Iterator[Config]:
    """Configs that take less memory and compute the same steps, each less than the one before."""
    mesh, train, compute = config.mesh, config.train, config.compute
    if found.mesh.shape["data"] > 1:
        mesh = dataclasses.replace(mesh, data=1, fsdp=-1)
        yield dataclasses.replace(config, mesh=mesh)
    if (compute.remat, compute.loss_chunks) != ("full", 1):
        chunks = max(n for n in range(1, 17) if config.model.context_length % n == 0)
        chunks = max(chunks, compute.loss_chunks)
        compute = dataclasses.replace(compute, remat="full", loss_chunks=chunks)
        if compute != config.compute:
            yield dataclasses.replace(config, mesh=mesh, compute=compute)
    shares = found.mesh.size // found.mesh.shape["tensor"]
    rows = train.batch_size // train.accumulate // shares
    for fewer in sorted({max(1, rows // 4), 1}, reverse=True):
        if fewer < rows and train.batch_size % (fewer * shares) == 0:
            less = dataclasses.replace(train, accumulate=train.batch_size // (fewer * shares))
            yield dataclasses.replace(config, mesh=mesh, compute=compute, train=less)


def changes(config: Config, other: Config) -> str:
    """As they are said on the command line."""
    return " ".join(
        f"--{section}.{name} {value}"
        for section in ("mesh", "train", "compute")
        for name, value in vars(getattr(other, section)).items()
        if value != getattr(getattr(config, section), name)
    )

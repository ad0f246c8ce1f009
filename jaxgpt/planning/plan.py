"""Plans a run: compiles its training step for the given devices and analyses it, without running
it.

The devices need not be present. Only the kind of the data and the size of the vocabulary are read.
"""

import dataclasses
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxgpt.config import Config
from jaxgpt.devices.chips import Chip, chip
from jaxgpt.devices.cpu import use_devices
from jaxgpt.devices.mesh import make_mesh
from jaxgpt.model import flops
from jaxgpt.planning.data import of_answers, with_vocabulary_sizes
from jaxgpt.planning.hlo import Traffic, collectives
from jaxgpt.planning.topologies import devices_of
from jaxgpt.settings import build_run
from jaxgpt.system.stages import Stage, silent
from jaxgpt.training.batches import largest_batch
from jaxgpt.training.compute import Compute
from jaxgpt.training.step import init_state, jitted_step, make_step


class Memory(NamedTuple):
    """Bytes on each device."""

    parameters: int  # including adapters and their frozen base
    optimizer: int  # including the average of the weights, if there is one
    temporaries: int
    program: int
    total: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """Memory, arithmetic and traffic of one training step of `config` on `mesh`."""

    config: Config
    mesh: Mesh
    choices: tuple[tuple[str, str], ...]  # (what was chosen for the devices, why)
    size: int  # parameters, without adapters
    adapters: int  # parameters of adapters, which alone are trained, or 0
    memory: Memory
    limit: float  # bytes available on a device
    operations: float  # floating-point operations of each device in a step
    again: float  # the fraction of `operations` that is recomputation
    traffic: dict[str, Traffic]
    seconds: float  # compile time
    text: str  # the compiled program; empty if it was too large to be compiled

    @property
    def fits(self) -> bool:
        return bool(self.text) and self.memory.total <= self.limit

    @property
    def chip(self) -> Chip | None:
        return chip(self.mesh.devices.flat[0].device_kind)


def plan(
    settings: Mapping[str, Any], where: str, topology: str = "", stage: Stage = silent
) -> tuple[Plan, Plan | None]:
    """The plan of the run in `settings`; if it does not fit, also that of a change that fits, if
    one is found.

    It is made for the devices of `topology`, or for those present.
    """
    config = build_run(settings, where)
    config = with_vocabulary_sizes(config)
    if not topology:
        use_devices(config.mesh)
    devices = devices_of(topology) if topology else jax.devices()
    stage("compiling", 0)
    first = plan_by_compiling(config, devices)
    if first.fits:
        return first, None
    for other in smaller(config, first):
        stage(f"does not fit; trying {changes(config, other)}", 0)
        tried = plan_by_compiling(other, devices)
        if tried.fits:
            return first, tried
    return first, None


def plan_by_compiling(config: Config, devices: list[Any]) -> Plan:
    """Plan of `config` on `devices`, by compiling its training step for them."""
    train = config.train
    rows = train.batch_size // train.accumulate
    mesh = make_mesh(config.mesh, rows, config.model.model_dim, devices)
    compute = Compute.of(config, mesh)
    step, state_shardings = jitted_step(config, mesh, compute)
    like = jax.eval_shape(lambda: init_state(config))
    batch = largest_batch(config, of_answers(config))
    operations, needed = _operations(config, like, batch)
    parameters = _bytes((like.params, like.base), (state_shardings.params, state_shardings.base))
    lowered, started = step.lower(like, batch), time.perf_counter()
    memory, text = _compile(lowered, parameters, _bytes(like, state_shardings) - parameters)
    return Plan(
        config=config,
        mesh=mesh,
        choices=compute.choices,
        size=_size(like.base or like.params),
        adapters=_size(like.params) if like.base else 0,
        memory=memory,
        limit=_limit(devices),
        operations=operations / mesh.size,
        again=1 - needed / operations,
        traffic=collectives(text) if text else {},
        seconds=time.perf_counter() - started,
        text=text,
    )


def _compile(lowered: Any, parameters: int, optimizer: int) -> tuple[Memory, str]:
    """The memory and the text of the `lowered` step; no text if it is too large to be compiled.

    `parameters` and `optimizer` are the bytes of the state on one device.
    """
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        wanted = _bytes_wanted(str(error))
        return Memory(parameters, optimizer, wanted, 0, parameters + optimizer + wanted), ""
    stats = program.memory_analysis()
    temporaries, code = stats.temp_size_in_bytes, stats.generated_code_size_in_bytes
    arrays = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    total = arrays + temporaries + code
    return Memory(parameters, optimizer, temporaries, code, total), program.as_text()


def _operations(config: Config, like: Any, batch: Any) -> tuple[int, int]:
    """Operations of a step, and of the same step without recomputation.

    For attention, blocks above the diagonal do not count.
    """

    def counted(**settings: Any) -> int:
        compute = dataclasses.replace(config.compute, attention="chunked", **settings)
        changed = dataclasses.replace(config, compute=compute)
        return flops.of_program(jax.make_jaxpr(make_step(changed))(like, batch).jaxpr)

    return counted(), counted(remat="none", loss_chunks=1)


def _bytes(tree: Any, shardings: Any) -> int:
    """The bytes of one device's shards of `tree`, which is sharded by `shardings`."""
    parts = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, sharding in parts
    )


def _size(tree: Any) -> int:
    """The number of elements in `tree`."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _bytes_wanted(message: str) -> int:
    """The bytes that the compiler could not allocate: the largest size in its error `message`."""
    sizes = [
        float(n) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[unit]
        for n, unit in re.findall(r"([\d.]+)([KMGT])\b", message)
    ]
    return int(max(sizes, default=math.inf))


def _limit(devices: list[Any]) -> float:
    """The bytes available on each device; devices without a data sheet share the machine's
    memory."""
    data_sheet = chip(devices[0].device_kind)
    if data_sheet and devices[0].platform == "gpu":
        return data_sheet.memory * gpu_share()
    if data_sheet:
        return data_sheet.memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / len(devices)


def gpu_share() -> float:
    """The share of a GPU's memory that JAX allocates: its default, or the environment's value."""
    return float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75"))


def smaller(config: Config, large: Plan) -> Iterator[Config]:
    """Configs that compute the steps of `config` in less memory, each in less than the last."""
    mesh, train, compute = config.mesh, config.train, config.compute
    if large.mesh.shape["data"] > 1:
        mesh = dataclasses.replace(mesh, data=1, fsdp=-1)
        yield dataclasses.replace(config, mesh=mesh)
    if (compute.remat, compute.loss_chunks) != ("full", 1):
        most = 1 if config.encoder else 16
        chunks = max(n for n in range(1, most + 1) if config.model.context_length % n == 0)
        chunks = max(chunks, compute.loss_chunks)
        compute = dataclasses.replace(compute, remat="full", loss_chunks=chunks)
        if compute != config.compute:
            yield dataclasses.replace(config, mesh=mesh, compute=compute)
    shares = large.mesh.size // large.mesh.shape["tensor"]
    rows = train.batch_size // train.accumulate // shares
    for fewer in sorted({max(1, rows // 4), 1}, reverse=True):
        if fewer < rows and train.batch_size % (fewer * shares) == 0:
            less = dataclasses.replace(train, accumulate=train.batch_size // (fewer * shares))
            yield dataclasses.replace(config, mesh=mesh, compute=compute, train=less)


def changes(config: Config, other: Config) -> str:
    """The command-line options that change `config` into `other`."""
    return " ".join(
        f"--{section}.{name} {value}"
        for section in ("mesh", "train", "compute")
        for name, value in vars(getattr(other, section)).items()
        if value != getattr(getattr(config, section), name)
    )

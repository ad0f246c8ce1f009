"""Groups of CPU devices that read the same memory, for generation.

Each group generates some of the rows; the devices of a group, its peers, compute the logits of
different tokens of these rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jax.typing import ArrayLike

from jaxgpt.devices.sharding import replicated

BY_GROUP, SAME = PartitionSpec("groups"), PartitionSpec()


def make_groups(weights: Any, rows: int, context: int) -> tuple[Mesh | None, Mesh | None]:
    """Two meshes of the CPU's devices: one that shards the rows, one that adds peers to each group.

    Both are None unless `weights` are on one CPU device: the devices of a mesh read the same
    weights, and other kinds of device would each need a copy.
    """
    devices = jax.tree.leaves(weights)[0].devices()
    if len(devices) > 1 or {device.platform for device in devices} != {"cpu"}:
        return None, None
    available = jax.local_devices(backend="cpu")
    groups = next(n for n in range(min(rows, len(available)), 0, -1) if rows % n == 0)
    peers = min(len(available) // groups, context)
    return _mesh(available[:groups], groups), _mesh(available[: groups * peers], groups)


def _mesh(devices: list[Any], groups: int) -> Mesh | None:
    if len(devices) == 1:
        return None
    return Mesh(np.asarray(devices).reshape(groups, -1), ("groups", "peers"))


def share(tree: Any, mesh: Mesh) -> Any:
    """Replicate `tree` on the devices of a CPU without copies, which would not fit into its
    cache."""
    return jax.device_put(jax.tree.map(np.asarray, tree), replicated(mesh))


def on_each_device(
    program: Callable[..., Any], mesh: Mesh | None, arguments: Any, results: Any
) -> Callable[..., Any]:
    """`program`, run on each device of `mesh`, or as it is if there is no mesh.

    `arguments` and `results` are the PartitionSpecs of both, BY_GROUP or SAME.
    """
    if mesh is None:
        return program
    return jax.shard_map(program, mesh=mesh, in_specs=arguments, out_specs=results, check_vma=False)


@dataclass(frozen=True)
class Peers:
    """The `count` devices of one group, as a program that runs on each of them sees them."""

    count: int

    @staticmethod
    def of(mesh: Mesh | None) -> "Peers":
        return Peers(mesh.shape["peers"] if mesh else 1)

    def index(self) -> ArrayLike:
        """The index of this device in its group."""
        return jax.lax.axis_index("peers") if self.count > 1 else 0

    def value_of(self, index: ArrayLike, x: jax.Array) -> jax.Array:
        """The `x` of the peer `index`."""
        return jax.lax.all_gather(x, "peers")[index] if self.count > 1 else x

"""Which device holds what: the one table of how parameters lie on a mesh, and the only room that makes meshes. Knows
names of axes, and no model."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgpt.config import MeshConfig, require

# As many devices as mesh.fsdp says are two axes: fsdp divides the model's width, and rest, by which the width does not
# divide, another size. GPT-2 XL's 1600 on 256 devices are 64 and 4.
AXES = ("data", "fsdp", "rest", "tensor")
ROWS = (
    "data",
    "fsdp",
    "rest",
)  # a batch is divided over them; over the last two the weights are as well
# For each axis of a parameter, what divides it.
LAYOUT: dict[str, tuple[tuple[str, ...], ...]] = {
    "token_embedding/embedding": (("tensor", "rest"), ("fsdp",)),
    "pos_embedding/embedding": (("rest",), ("fsdp",)),
    "blocks/attn/qkv/kernel": ((), ("fsdp",), ("tensor",), (), ("rest",)),
    "blocks/attn/qkv/bias": ((), ("tensor",), (), ("fsdp", "rest")),
    "blocks/attn/out/kernel": ((), ("tensor",), ("rest",), ("fsdp",)),
    "blocks/mlp/up/kernel": ((), ("fsdp",), ("tensor", "rest")),
    "blocks/mlp/up/bias": ((), ("tensor", "rest", "fsdp")),
    "blocks/mlp/down/kernel": ((), ("tensor", "rest"), ("fsdp",)),
    "head/kernel": (("fsdp",), ("tensor", "rest")),
    "head/bias": (("tensor", "rest", "fsdp"),),
    "blocks/attn/out/bias": ((), ("fsdp", "rest")),
    "blocks/mlp/down/bias": ((), ("fsdp", "rest")),
    "blocks/norm1/scale": ((), ("fsdp", "rest")),
    "blocks/norm1/bias": ((), ("fsdp", "rest")),
    "blocks/norm2/scale": ((), ("fsdp", "rest")),
    "blocks/norm2/bias": ((), ("fsdp", "rest")),
    "final_norm/scale": (("fsdp", "rest"),),
    "final_norm/bias": (("fsdp", "rest"),),
}

Of = Callable[
    [Any, jax.Array], jax.Array
]  # (number of a device, what this one has) -> what that one has


def sizes(config: MeshConfig) -> tuple[int, ...]:
    return config.data, config.fsdp, config.tensor


def make_mesh(config: MeshConfig, rows: int, width: int, devices: list[Any] | None = None) -> Mesh:
    """For batches of so many rows, of which each device along data and fsdp has its share, and models so wide."""
    devices = devices or jax.devices()
    shape = _shape(config, rows, devices)
    count, shares = math.prod(shape), shape[0] * shape[1]
    require(
        rows % shares == 0,
        f"mesh.data x mesh.fsdp is {shares}, which does not divide the {rows} rows that are computed at a time: "
        f"train.batch_size / train.accumulate must be a multiple of {shares}.",
    )
    if count < len(devices):
        print(
            f"{rows} rows at a time divide among {count} of {len(devices)} devices; the others stay idle."
        )
    if count < len(devices):
        placed = np.asarray(devices[:count])
    else:  # near each other in the mesh, near each other on the board
        placed = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    data, fsdp, tensor = shape
    divides = math.gcd(width, fsdp)
    return Mesh(placed.reshape(data, divides, fsdp // divides, tensor), AXES)


def shape_of(mesh: Mesh) -> dict[str, int]:
    """In the words of MeshConfig."""
    size = mesh.shape
    return {"data": size["data"], "fsdp": size["fsdp"] * size["rest"], "tensor": size["tensor"]}


def _shape(config: MeshConfig, rows: int, devices: list[Any]) -> tuple[int, ...]:
    asked, there = sizes(config), len(devices)
    known = math.prod(size for size in asked if size > 0)
    named = " x ".join(
        f"mesh.{axis} {size}" for axis, size in zip(("data", "fsdp", "tensor"), asked, strict=True)
    )
    if -1 not in asked:
        require(known == there, f"{named} makes {known} devices, but there are {there}.")
        return asked
    require(
        there % known == 0, f"{named}: {known} does not divide the {there} devices that there are."
    )
    left = there // known
    alone = len({getattr(device, "process_index", 0) for device in devices}) == 1
    if config.data == -1 and alone:  # rather fewer devices than none at all
        left = next(n for n in range(left, 0, -1) if rows % (n * config.fsdp) == 0 or n == 1)
    return tuple(left if size == -1 else size for size in asked)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def over_rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The rows of a batch, which are its given axis, divided among the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, ROWS))


def shardings(tree: Any, mesh: Mesh) -> Any:
    """Of parameters, or of anything that holds such trees: moments lie as their parameters do."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, _spec(_name(path), leaf.shape, mesh)), tree
    )


def _spec(
    name: str, shape: tuple[int, ...], mesh: Mesh, without: tuple[str, ...] = ()
) -> PartitionSpec:
    if not shape:  # counters of steps
        return PartitionSpec()
    tables = [table for end, table in LAYOUT.items() if f"/{name}".endswith(f"/{end}")]
    if not tables:
        raise KeyError(f"LAYOUT does not say how {name} {shape} is sharded")
    table = tables[0][len(tables[0]) - len(shape) :]  # a single block has no axis of layers
    axes = zip(shape, table, strict=True)
    return PartitionSpec(*(_dividing(n, names, mesh, without) for n, names in axes))


def _dividing(
    n: int, axes: tuple[str, ...], mesh: Mesh, without: tuple[str, ...]
) -> tuple[str, ...] | None:
    """Those by which a size can be divided."""
    found: tuple[str, ...] = ()
    for axis in axes:
        if axis not in without and n % math.prod(mesh.shape[each] for each in (*found, axis)) == 0:
            found += (axis,)
    return found or None


@dataclass(frozen=True)
class Gather:
    """Collects sharded weights where they are used, one block at a time.

    Each device computes rows of its own with weights that are whole along fsdp. Left alone, the
    compiler would shard the products as the weights are.
    """

    mesh: Mesh

    @staticmethod
    def on(mesh: Mesh) -> "Gather | None":
        """The Gather for `mesh`, or None where weights are not sharded."""
        return Gather(mesh) if mesh.size > mesh.shape["data"] else None

    def all_but_blocks(self, params: Any) -> Any:
        outside = {name: part for name, part in params.items() if name != "blocks"}
        return params | self._whole(outside)

    def block(self, block: Any) -> Any:
        return self._whole(block, "blocks/")

    def rows(self, x_btd: jax.Array) -> jax.Array:
        """The stream sharded by its rows alone."""
        return jax.lax.with_sharding_constraint(x_btd, over_rows(self.mesh))

    def _whole(self, tree: Any, within: str = "") -> Any:
        def one(path: tuple, leaf: jax.Array) -> jax.Array:
            name = within + _name(path)
            specs = (
                _spec(name, leaf.shape, self.mesh, without) for without in (("fsdp", "rest"), ())
            )
            return _gather(leaf, *(NamedSharding(self.mesh, spec) for spec in specs))

        return jax.tree_util.tree_map_with_path(one, tree)


def on_each(attend: Callable[..., jax.Array], mesh: Mesh) -> Callable[..., jax.Array]:
    """Of a kernel, which the compiler cannot divide: each device calls it with its own rows and heads."""
    if mesh.size == 1:
        return attend

    def divided(
        q_btnh: jax.Array, k_btnh: jax.Array, v_btnh: jax.Array, scale: jax.Array
    ) -> jax.Array:
        heads = "tensor" if q_btnh.shape[2] % mesh.shape["tensor"] == 0 else None
        parts, whole = PartitionSpec(ROWS, None, heads), PartitionSpec()
        own = jax.shard_map(
            attend,
            mesh=mesh,
            in_specs=(parts, parts, parts, whole),
            out_specs=parts,
            check_vma=False,
        )
        return own(q_btnh, k_btnh, v_btnh, scale)

    return divided


BY_GROUP, SAME = PartitionSpec("groups"), PartitionSpec()


def side_by_side(devices: list[Any], groups: int) -> Mesh:
    """Of devices that all hold the same weights, for `with_peers`: each group of them has rows of its own."""
    return Mesh(np.asarray(devices).reshape(groups, -1), ("groups", "peers"))


def shared(tree: Any, mesh: Mesh) -> Any:
    """On all devices of a CPU, which have one memory: they read the same bytes, as copies would not fit its cache."""
    return jax.device_put(jax.tree.map(np.asarray, tree), replicated(mesh))


def with_peers(
    program: Callable[..., Any], mesh: Mesh | None, arguments: Any, results: Any
) -> Callable[..., Any]:
    """On every device `program` gets its number within its group, and a function that says what another one there has
    computed. `arguments` and `results` say what is divided by group, and what is the same on all."""
    if mesh is None:
        return functools.partial(program, 0, lambda device, x: x)

    def on_device(*arguments: Any) -> Any:
        return program(
            jax.lax.axis_index("peers"),
            lambda device, x: jax.lax.all_gather(x, "peers")[device],
            *arguments,
        )

    return jax.shard_map(
        on_device, mesh=mesh, in_specs=arguments, out_specs=results, check_vma=False
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(x: jax.Array, whole: NamedSharding, divided: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, whole)


def _scatter(
    whole: NamedSharding, divided: NamedSharding, _: None, gradient: jax.Array
) -> tuple[jax.Array]:
    """Summed and divided at once; said in two steps, or the compiler divides the sum's terms in this way as well."""
    summed = jax.lax.with_sharding_constraint(gradient, whole)
    return (jax.lax.with_sharding_constraint(summed, divided),)


_gather.defvjp(lambda x, whole, divided: (_gather(x, whole, divided), None), _scatter)


def undivided(params: Any, mesh: Mesh) -> list[str]:
    """What the table would divide further than the mesh can."""
    found = []
    for (path, leaf), where in zip(
        jax.tree_util.tree_leaves_with_path(params),
        jax.tree.leaves(shardings(params, mesh)),
        strict=True,
    ):
        wanted = math.prod(
            mesh.shape[axis] for axes in LAYOUT.get(_name(path), ()) for axis in axes
        )
        ways = leaf.size // math.prod(where.shard_shape(leaf.shape))
        if ways < wanted:
            found.append(
                f"{_name(path)} is divided by {ways}, not by {wanted}, as its sizes do not divide"
            )
    return found


def _name(path: tuple) -> str:
    """Of a leaf in nested dicts, or in a module, whose leaves end in `value`."""
    parts = [
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in path
    ]
    return "/".join(parts[:-1] if parts[-1] == "value" else parts)


def placed(array: np.ndarray, where: NamedSharding) -> jax.Array:
    """An array that every process has whole, divided: each device gets its own part alone."""
    return jax.make_array_from_callback(array.shape, where, lambda part: array[part])

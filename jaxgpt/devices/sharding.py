"""Shardings of a training run: the PartitionSpec of each array.

Which axes of the mesh shard each parameter is the table in `sharding_table`.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgpt.devices.mesh import ROWS
from jaxgpt.devices.sharding_table import SHARDING_TABLE


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def over_rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The sharding of a batch over its rows, which are `axis` of the array."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, ROWS))


def shardings(tree: Any, mesh: Mesh) -> Any:
    """The sharding of each leaf of `tree`: parameters, or a state whose subtrees mirror them."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, _stored(_name(path), leaf.shape, mesh)), tree
    )


def _stored(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The sharding of a parameter between its uses."""
    parts: list[tuple[str, ...]] = []
    for n, axes in zip(shape, _table(name, shape), strict=True):
        parts.append(_dividing(n, axes, mesh, without=sum(parts, ())))
    return PartitionSpec(*(part or None for part in parts))


def _used(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The sharding of a parameter where it is used: along `tensor` alone."""
    table, parts = _table(name, shape), []
    for i, (n, axes) in enumerate(zip(shape, table, strict=True)):
        parts.append(_dividing(n, axes, mesh, without=("fsdp", "rest", *sum(table[:i], ()))))
    return PartitionSpec(*(part or None for part in parts))


def _table(name: str, shape: tuple[int, ...]) -> tuple[tuple[str, ...], ...]:
    """The mesh axes that SHARDING_TABLE lists for each axis of a parameter."""
    if not shape or name.endswith("/ns_coeffs"):  # step counters, and three constants of Muon
        return ((),) * len(shape)
    tables = [table for end, table in SHARDING_TABLE.items() if f"/{name}".endswith(f"/{end}")]
    if not tables:
        raise KeyError(f"SHARDING_TABLE does not say how {name} {shape} is sharded")
    return tables[0][len(tables[0]) - len(shape) :]  # a single block has no layer axis


def _dividing(
    n: int, axes: tuple[str, ...], mesh: Mesh, without: tuple[str, ...]
) -> tuple[str, ...]:
    """The axes, in order, whose product divides `n`, other than those in `without`."""
    usable: tuple[str, ...] = ()
    for axis in axes:
        if axis not in without and n % math.prod(mesh.shape[each] for each in (*usable, axis)) == 0:
            usable += (axis,)
    return usable


@dataclass(frozen=True)
class Gather:
    """Gathers sharded weights where they are used, one block at a time.

    Each device computes its own rows with weights that are whole along fsdp. Without this, the
    compiler would shard the products like the weights.
    """

    mesh: Mesh

    @staticmethod
    def on(mesh: Mesh) -> "Gather | None":
        """Make the Gather for `mesh`, or None where weights are not sharded."""
        return Gather(mesh) if mesh.size > mesh.shape["data"] else None

    def all_but_blocks(self, params: Any) -> Any:
        outside = {name: part for name, part in params.items() if name != "blocks"}
        # Without this the compiler would gather the float32 weights that these are cast from.
        outside = jax.lax.with_sharding_constraint(outside, shardings(outside, self.mesh))
        return params | self._whole(outside)

    def block(self, block: Any) -> Any:
        return self._whole(block, "blocks/")

    def rows(self, x_btd: jax.Array) -> jax.Array:
        """The residual stream, sharded by its rows alone."""
        return jax.lax.with_sharding_constraint(x_btd, over_rows(self.mesh))

    def _whole(self, tree: Any, within: str = "") -> Any:
        def one(path: tuple, leaf: jax.Array) -> jax.Array:
            specs = (spec(within + _name(path), leaf.shape, self.mesh) for spec in (_used, _stored))
            return _gather(leaf, *(NamedSharding(self.mesh, spec) for spec in specs))

        return jax.tree_util.tree_map_with_path(one, tree)


def on_each(attend: Callable[..., jax.Array], mesh: Mesh) -> Callable[..., jax.Array]:
    """Run the kernel `attend`, which the compiler cannot shard, on each device's rows and heads."""
    if mesh.size == 1:
        return attend

    def divided(
        q_btmgh: jax.Array,
        k_btmh: jax.Array,
        v_btmh: jax.Array,
        scale: jax.Array,
        scores: Any,
        segments_bt: jax.Array | None = None,
    ) -> jax.Array:
        # Biases differ by head, and every device has those of all heads.
        divides = k_btmh.shape[2] % mesh.shape["tensor"] == 0 and scores.slopes is None
        heads = "tensor" if divides else None
        parts, whole = PartitionSpec(ROWS, None, heads), PartitionSpec()
        own = jax.shard_map(
            lambda q, k, v, scale, segments: attend(q, k, v, scale, scores, segments),
            mesh=mesh,
            in_specs=(parts, parts, parts, whole, PartitionSpec(ROWS)),
            out_specs=parts,
            check_vma=False,
        )
        return own(q_btmgh, k_btmh, v_btmh, scale, segments_bt)

    return divided


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(x: jax.Array, whole: NamedSharding, divided: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, whole)


def _scatter(
    whole: NamedSharding, divided: NamedSharding, _: None, gradient: jax.Array
) -> tuple[jax.Array]:
    """Reduce-scatter `gradient` to the sharding `divided`.

    With only one of the two constraints, the compiler would shard the terms of the sum as well.
    """
    summed = jax.lax.with_sharding_constraint(gradient, whole)
    return (jax.lax.with_sharding_constraint(summed, divided),)


_gather.defvjp(lambda x, whole, divided: (_gather(x, whole, divided), None), _scatter)


def undivided(params: Any, mesh: Mesh) -> list[str]:
    """Messages about parameters that `mesh` cannot shard as far as SHARDING_TABLE asks."""
    if "blocks" not in params:  # the two sides of an encoder-decoder
        return [
            f"{side}: {message}"
            for side, part in params.items()
            for message in undivided(part, mesh)
        ]
    messages = []
    heads, tensor = params["blocks"]["attn"]["qkv"]["kernel"].shape[2], mesh.shape["tensor"]
    if heads % tensor:
        messages.append(
            f"mesh.tensor {tensor} does not divide the {heads} heads of keys and values: each "
            f"of its {tensor} devices computes the attention of all heads"
        )
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(params),
        jax.tree.leaves(shardings(params, mesh)),
        strict=True,
    ):
        listed = {axis for axes in _table(_name(path), leaf.shape) for axis in axes}
        wanted = math.prod(mesh.shape[axis] for axis in listed)
        ways = leaf.size // math.prod(sharding.shard_shape(leaf.shape))
        if ways < wanted:
            messages.append(
                f"{_name(path)} is sharded {ways} ways, not {wanted}, as its sizes do not divide"
            )
    return messages


def _name(path: tuple) -> str:
    """The name of a leaf in nested dicts, or in a module, whose leaves end in `value`."""
    parts = [
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in path
    ]
    return "/".join(parts[:-1] if parts[-1] == "value" else parts)


def shard_array(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Shard an array that every process has whole: each device gets only its own part."""
    return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])

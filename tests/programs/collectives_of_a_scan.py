"""Print the collectives of a compiled scan over four devices."""

import json

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxgpt.planning.hlo import collectives

mesh = Mesh(np.array(jax.devices()), ("x",))


def one(x):
    def round(total, _):
        return total + jax.lax.all_gather(total, "x", tiled=True)[:8] + jax.lax.psum(
            total, "x"
        ), None

    return jax.lax.scan(round, x, length=3)[0]


program = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=P("x"), out_specs=P("x"), check_vma=False))
print(
    json.dumps(
        collectives(program.lower(jax.ShapeDtypeStruct((32,), "float32")).compile().as_text())
    )
)

"""Train ten steps in each case (mesh, fields of the model); print losses, weights and their shards."""

import json
import math
import sys
from typing import Any

import jax
import numpy as np
import optax

from jaxgpt.config import Config, DataConfig, MeshConfig, ModelConfig, OptimConfig, RunConfig
from jaxgpt.devices.mesh import make_mesh, sizes
from jaxgpt.devices.sharding import over_rows, placed
from jaxgpt.pytree import flatten
from jaxgpt.training.step import init_state, jitted_step


def steps(axes: list[int], fields: dict[str, Any]) -> dict[str, Any]:
    wanted = MeshConfig(*axes)
    model = ModelConfig(context_length=11, num_blocks=3, num_heads=4, qkv_bias=True, **fields)
    optim = OptimConfig(warmup_steps=0)
    config = Config(DataConfig("x"), RunConfig("x"), model=model, optim=optim, mesh=wanted)
    mesh = make_mesh(wanted, 8, model.model_dim, jax.devices()[: math.prod(sizes(wanted))])
    parts = over_rows(mesh, axis=1)
    step, where = jitted_step(config, mesh)
    state, losses = jax.jit(lambda: init_state(config), out_shardings=where)(), []
    ids = jax.ShapeDtypeStruct((1, 8, 12), np.int32)
    program = step.lower(jax.eval_shape(lambda: state), ids).compile()
    for i in range(10):
        ids = np.random.default_rng(i).integers(0, model.vocab_size, (1, 8, 12))
        ids = ids.astype(np.int32)
        state, metrics = program(state, placed(ids, parts))
        losses.append(float(metrics.loss))
    lies = {}
    for name, leaf in flatten(state.params).items():
        lies[name] = [leaf.shape, leaf.addressable_shards[0].data.shape]
    mu = optax.tree.get(state.optimizer, "mu")
    assert all(
        a.sharding == b.sharding
        for a, b in zip(jax.tree.leaves(mu), jax.tree.leaves(state.params), strict=True)
    )
    weights = {name: np.asarray(leaf).tolist() for name, leaf in flatten(state.params).items()}
    return {"losses": losses, "weights": weights, "lies": lies, "text": program.as_text()}


print(json.dumps([steps(*case) for case in json.loads(sys.argv[1])]))

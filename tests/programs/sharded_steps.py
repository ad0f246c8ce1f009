"""Train ten steps in each case (mesh, fields of the model); print losses, weights and their shards."""

import json
import math
import sys
from typing import Any

import jax
import numpy as np
import optax

from jaxgpt.config import (
    ComputeConfig,
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from jaxgpt.data.packing import cut, documents
from jaxgpt.data.pair_batches import PairBatch
from jaxgpt.data.windows import make_windows
from jaxgpt.devices.mesh import make_mesh, sizes
from jaxgpt.devices.sharding import over_rows, shard_array
from jaxgpt.pytree import flatten
from jaxgpt.training.compute import Compute
from jaxgpt.training.step import init_state, jitted_step


def drawn(config: Config, step: int) -> Any:
    """The batch of a step: ids of a text, packed documents, or pairs of which some is padding."""
    rng, model = np.random.default_rng(step), config.architecture
    if config.data.pack == "restart":
        ids = rng.integers(0, 26, 400)
        spans = cut(documents(ids, eot=0), 11)
        batch = make_windows(ids, spans, 11, "restart").batch(seed=0, step=step, batch_size=8)
        return jax.tree.map(lambda x: x[None], batch)
    if isinstance(model, ModelConfig):
        return rng.integers(0, model.vocab_size, (1, 8, 12)).astype(np.int32)
    source, target = (
        rng.integers(0, one.vocab_size, (1, 8, 11)).astype(np.int32)
        for one in (model.encoder, model.decoder)
    )
    masks = (np.arange(11) < rng.integers(1, 12, (1, 8, 1)) for _ in range(2))
    return PairBatch(source, next(masks), target, target[..., ::-1].copy(), next(masks))


def steps(axes: list[int], fields: dict[str, Any]) -> dict[str, Any]:
    wanted = MeshConfig(*axes)
    pair, attention = fields.pop("pair", False), fields.pop("attention", "auto")
    # With the usual eps of 1e-8 AdamW makes much of rounding where a gradient is near 0.
    settings = {"warmup_steps": 0, "eps": 1e-6, **fields.pop("optim", {})}
    train = TrainConfig(lora_rank=fields.pop("lora", 0))
    pack = fields.pop("pack", "off")
    common = {"context_length": 11, "num_heads": 4, "qkv_bias": True, **fields}
    model = ModelConfig(num_blocks=3, cross_attention=pair, **common)
    encoder = ModelConfig(num_blocks=2, **{**common, "vocab_size": 16}) if pair else None
    config = Config(
        DataConfig("x", pack=pack),
        RunConfig("x", init="y"),
        model=model,
        encoder=encoder,
        optim=OptimConfig(**settings),
        train=train,
        compute=ComputeConfig(attention=attention),
        mesh=wanted,
    )
    mesh = make_mesh(wanted, 8, model.model_dim, jax.devices()[: math.prod(sizes(wanted))])
    parts = over_rows(mesh, axis=1)
    step, where = jitted_step(config, mesh, Compute.of(config, mesh))
    state, losses = jax.jit(lambda: init_state(config), out_shardings=where)(), []
    shapes = jax.eval_shape(lambda: (state, drawn(config, 0)))
    program = step.lower(*shapes).compile()
    for i in range(10):
        batch = jax.tree.map(lambda x: shard_array(x, parts), drawn(config, i))
        state, metrics = program(state, batch)
        losses.append(float(metrics.loss))
    lies = {}
    for name, leaf in flatten(state.params).items():
        lies[name] = [leaf.shape, leaf.addressable_shards[0].data.shape]
    moments = [mu for _, mu in optax.tree.get_all_with_path(state.optimizer, "mu")]
    shards = {
        jax.tree_util.keystr(path): leaf.sharding
        for mu in moments
        for path, leaf in jax.tree_util.tree_leaves_with_path(mu)
    }
    assert shards == {
        jax.tree_util.keystr(path): leaf.sharding
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
    }
    weights = {name: np.asarray(leaf).tolist() for name, leaf in flatten(state.params).items()}
    return {"losses": losses, "weights": weights, "lies": lies, "text": program.as_text()}


print(json.dumps([steps(*case) for case in json.loads(sys.argv[1])]))

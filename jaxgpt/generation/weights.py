"""Weights as the compiled programs of generation take them."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.model import GPT
from jaxgpt.model.block import Block
from jaxgpt.model.precision import cast


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["leaves"], meta_fields=["structure"]
)
@dataclass(frozen=True)
class Weights:
    """A model and its blocks as separate modules, flattened once for all calls of programs."""

    leaves: list[jax.Array]
    structure: Any

    @staticmethod
    def prepare(model: GPT, dtype: jnp.dtype) -> "Weights":
        """The weights of `model`, cast to `dtype`."""
        model = cast(model, dtype)
        return Weights(*jax.tree.flatten((model, _blocks(model))))

    def modules(self) -> tuple[GPT, tuple[Block, ...]]:
        """The model, and its blocks."""
        return jax.tree.unflatten(self.structure, self.leaves)


def _blocks(model: GPT) -> tuple[Block, ...]:
    """The blocks of `model` as separate modules; on a CPU they share its memory."""
    devices = jax.tree.leaves(model)[0].devices()
    if len(devices) == 1 and {device.platform for device in devices} == {"cpu"}:
        views = _separate_blocks(jax.tree.map(np.asarray, model))
        return jax.device_put(views, next(iter(devices)))
    return jax.jit(_separate_blocks)(model)


def _separate_blocks(model: GPT) -> tuple[Block, ...]:
    """The blocks of `model` as separate modules, without the projections of a memory."""
    blocks = model.unstacked()
    if model.spec.block.cross is not None:
        for block in blocks:
            block.cross_attn.keep_queries()
    return blocks

"""Blocks stacked along a leading axis of layers, run by one scan."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxgpt.model import spec
from jaxgpt.model.attention import Memory
from jaxgpt.model.block import Block

# (a block, its layer number, the stream, its memory) -> the stream after it, and any other output
Apply = Callable[[Block, jax.Array, jax.Array, Memory | None], tuple[jax.Array, Any]]


class Stack(nnx.Module):
    """`num_blocks` blocks in one module; every array has a leading axis of layers."""

    def __init__(self, s: spec.Block, model_dim: int, num_blocks: int, rngs: nnx.Rngs):
        keys = jax.random.split(rngs.params(), num_blocks)
        make = jax.vmap(lambda key: Block(s, model_dim, num_blocks, nnx.Rngs(key)))
        self.blocks = make(keys)
        self.num_blocks = num_blocks

    def run(
        self, x_btd: jax.Array, apply: Apply, memory: Memory | None = None, unroll: int = 1
    ) -> tuple[jax.Array, Any]:
        """Scan `apply` over the blocks, each with its layer of `memory`: the last stream, and the
        other outputs, stacked.
        """

        def step(x: jax.Array, item: tuple[Block, jax.Array, Any]) -> tuple[jax.Array, Any]:
            block, layer, memory = item
            return apply(block, layer, x, memory)

        layers = self.blocks, jnp.arange(self.num_blocks), memory
        return jax.lax.scan(step, x_btd, layers, unroll=unroll)

    def memory(self, memory_bsd: jax.Array, mask_bs: jax.Array) -> Memory:
        """The keys and values of `memory_bsd` for the cross-attention of all blocks."""

        def of_block(block: Block, layer: jax.Array) -> Memory:
            positions = jnp.arange(memory_bsd.shape[1])
            return Memory(*block.cross_attn.keys_values(memory_bsd, layer, positions), mask_bs)

        return jax.vmap(of_block)(self.blocks, jnp.arange(self.num_blocks))

    def unstacked(self) -> tuple[Block, ...]:
        """The blocks as separate modules."""

        def block(layer: int) -> Block:
            return jax.tree.map(lambda leaf: leaf[layer], self.blocks)

        return tuple(map(block, range(self.num_blocks)))

"""A block: attention and MLP, each joined to the residual stream.

Shapes: B batch, T time, D model width.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from jaxgpt.model import spec
from jaxgpt.model.attention import INIT_STD, Attend, Attention, causal
from jaxgpt.model.mlp import Mlp
from jaxgpt.model.norms import LayerNorm

Norm = Callable[[jax.Array], jax.Array]
Branch = Callable[
    [jax.Array], tuple[jax.Array, Any]
]  # x -> what is added to the stream, and what is kept


class Block(nnx.Module):
    def __init__(self, s: spec.Block, model_dim: int, num_blocks: int, rngs: nnx.Rngs):
        # Each block adds to the stream twice; GPT-2's start keeps its variance independent of depth.
        out_init = nnx.initializers.normal(INIT_STD / (2 * num_blocks) ** 0.5)
        self.attn = Attention(s.attention, model_dim, out_init, rngs)
        self.mlp = Mlp(s.mlp, model_dim, out_init, rngs)
        self.norm1 = LayerNorm(s.norm, model_dim)
        self.norm2 = LayerNorm(s.norm, model_dim)
        self.spec = s

    def __call__(
        self,
        x_btd: jax.Array,
        layer: ArrayLike,
        attend: Attend = causal,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """The stream after this block, and what `attend` kept; dropout is on when a key is given."""
        rate, placement, key1, key2 = self.spec.dropout, self.spec.placement, None, None
        if dropout_key is not None:
            key1, key2 = jax.random.split(jax.random.fold_in(dropout_key, layer))

        def attention(x_btd: jax.Array) -> tuple[jax.Array, Any]:
            mixed, kept = self.attn(x_btd, layer, attend)
            return dropout(mixed, rate, key1), kept

        def mlp(x_btd: jax.Array) -> tuple[jax.Array, Any]:
            return dropout(self.mlp(x_btd), rate, key2), None

        x_btd, kept = residual(placement, x_btd, self.norm1, attention)
        return residual(placement, x_btd, self.norm2, mlp)[0], kept

    def keys_values(self, x_btd: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The keys and values that this block's attention makes of the stream `x_btd`."""
        return self.attn.keys_values(x_btd if self.spec.placement == "post" else self.norm1(x_btd))


def residual(placement: str, x: jax.Array, norm: Norm, branch: Branch) -> tuple[jax.Array, Any]:
    """The stream `x` with the output of `branch` added, and what the branch kept."""
    match placement:
        case "pre":
            added, kept = branch(norm(x))
            return x + added, kept
        case "post":
            added, kept = branch(x)
            return norm(x + added), kept
        case _:  # "residual": the stream itself is normalised
            x = norm(x)
            added, kept = branch(x)
            return x + added, kept


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """`x` with a share `rate` of its elements set to 0 and the others scaled up; `x` without a key."""
    if key is None or rate == 0:
        return x
    # 16 random bits decide: half the work of a uniform float32, and the rate is right to 1 in 65,536.
    keep = jax.random.bits(key, x.shape, jnp.uint16) < round((1 - rate) * 2**16)
    return jnp.where(keep, x / (1 - rate), 0)

"""A block: attention, in some models cross-attention, and MLP, each joined to the residual stream.

Shapes: B batch, T time, D model width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from jaxgpt.model import spec
from jaxgpt.model.attention import Attend, Attention, Memory, causal
from jaxgpt.model.initial import INIT_STD
from jaxgpt.model.mlp import Mlp
from jaxgpt.model.norms import Norm

# the stream -> its update, and any other output
Branch = Callable[[jax.Array], tuple[jax.Array, Any]]


class Extra(NamedTuple):
    """The other outputs of the two functions that attend: to the text itself and to a memory."""

    own: Any
    across: Any = None


class Block(nnx.Module):
    """One layer: its parts, each with its norm and its residual connection."""

    def __init__(self, s: spec.Block, model_dim: int, num_blocks: int, rngs: nnx.Rngs):
        # As in GPT-2's init, so that the variance of the stream does not grow with the number of
        # blocks.
        additions = num_blocks * (2 if s.cross is None else 3)
        out_init = nnx.initializers.normal(INIT_STD / additions**0.5)
        self.attn = Attention(s.attention, model_dim, out_init, rngs)
        self.mlp = Mlp(s.mlp, model_dim, out_init, rngs)
        self.norm1 = Norm(s.norm, model_dim)
        if s.residual != "parallel_one_norm":
            self.norm2 = Norm(s.norm, model_dim)
        if s.sandwich:
            self.out_norm1, self.out_norm2 = Norm(s.norm, model_dim), Norm(s.norm, model_dim)
        if s.cross is not None:
            self.cross_attn = Attention(s.cross, model_dim, out_init, rngs)
            self.cross_norm = Norm(s.norm, model_dim)
            if s.sandwich:
                self.cross_out_norm = Norm(s.norm, model_dim)
        self.spec = s

    def __call__(
        self,
        x_btd: jax.Array,
        layer: ArrayLike,
        positions: jax.Array,
        attend: Attend = causal,
        dropout_key: jax.Array | None = None,
        memory: Memory | None = None,
    ) -> tuple[jax.Array, Extra]:
        """The stream after this block, and the other outputs of attention; dropout needs a key."""
        spec = self.spec
        keys: Any = (None, None, None)
        if dropout_key is not None:
            keys = jax.random.split(
                jax.random.fold_in(dropout_key, layer), 2 if spec.cross is None else 3
            )

        def attention(x_btd: jax.Array) -> tuple[jax.Array, Any]:
            mixed, extra = self.attn(x_btd, layer, positions, attend)
            return self._norm_and_drop(mixed, "out_norm1", keys[0]), extra

        def mlp(x_btd: jax.Array) -> tuple[jax.Array, Any]:
            return self._norm_and_drop(self.mlp(x_btd), "out_norm2", keys[1]), None

        def cross_attention(x_btd: jax.Array) -> tuple[jax.Array, Any]:
            assert memory is not None
            mixed, extra = self.cross_attn.across(x_btd, layer, memory)
            return self._norm_and_drop(mixed, "cross_out_norm", keys[2]), extra

        if spec.residual == "sequential":
            x_btd, own = residual(spec.placement, x_btd, self.norm1, attention)
            across = None
            if spec.cross is not None:
                x_btd, across = residual(spec.placement, x_btd, self.cross_norm, cross_attention)
            return residual(spec.placement, x_btd, self.norm2, mlp)[0], Extra(own, across)
        normal = self.norm1(x_btd)
        update1, own = attention(normal)
        shared = spec.residual == "parallel_one_norm"
        update2, _ = mlp(normal if shared else self.norm2(x_btd))
        return x_btd + update1 + update2, Extra(own)

    def _norm_and_drop(self, update: jax.Array, norm: str, key: jax.Array | None) -> jax.Array:
        """The `update` of the stream after its sandwich `norm`, if there is one, and dropout."""
        normed = getattr(self, norm)(update) if self.spec.sandwich else update
        return dropout(normed, self.spec.dropout, key)

    def keys_values(
        self, x_btd: jax.Array, layer: ArrayLike, positions: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The keys and values of this block's attention for the stream `x_btd`."""
        x_btd = branch_input(self.spec.placement, x_btd, self.norm1)
        # Multiplying by the whole kernel is faster than slicing it, which copies it.
        return self.attn.project(x_btd, layer, positions)[1:]


def branch_input(placement: str, x: jax.Array, norm: Norm) -> jax.Array:
    """The input of a residual branch from the stream `x`: its norm, or `x` itself."""
    return norm(x) if placement in ("pre", "residual") else x


def residual(placement: str, x: jax.Array, norm: Norm, branch: Branch) -> tuple[jax.Array, Any]:
    """Run `branch` and add its output to the stream `x`; also return its other output.

    The norm is where `placement` says: before the branch, after the sum, on the stream itself, or
    on the branch's output.
    """
    start = branch_input(placement, x, norm)
    update, extra = branch(start)
    match placement:
        case "pre":
            return x + update, extra
        case "post":
            return norm(x + update), extra
        case "residual":  # the stream itself is normalised
            return start + update, extra
        case "output":
            return x + norm(update), extra
    raise ValueError(f"there is no placement {placement!r} of norms")


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """`x` with a share `rate` of its elements zeroed, the others scaled up; `x` without a key."""
    if key is None or rate == 0:
        return x
    # 16 random bits cost half as much as a uniform float32; the rate is exact to 1 in 65,536.
    keep = jax.random.bits(key, x.shape, jnp.uint16) < round((1 - rate) * 2**16)
    return jnp.where(keep, x / (1 - rate), 0)

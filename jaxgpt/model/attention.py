"""Multi-head causal attention: the projections before and after it.

The function that combines queries, keys and values is an argument, `attend`.

Shapes: B batch, T time, D model width, N heads, M heads of keys and values, G = N / M, H head
width.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from jaxgpt.model import forms, spec

INIT_STD = 0.02
# (queries (B, T, N, H), keys, values (B, T, M, H), scale) -> the weighted sums of the values
# (B, T, N, H), and any other output that the caller wants.
Attend = Callable[..., tuple[jax.Array, Any]]


def keep_nothing(form: forms.Form) -> Attend:
    """`form` as an Attend whose other output is None."""
    return lambda *parts: (form(*parts), None)


causal = keep_nothing(forms.chunked)


class Attention(nnx.Module):
    """Causal attention with one projection to queries, keys and values.

    Its kernel has an axis of groups; each group stores G query heads, then their key and value.
    """

    def __init__(
        self, s: spec.Attention, model_dim: int, out_init: nnx.Initializer, rngs: nnx.Rngs
    ):
        self.qkv = nnx.LinearGeneral(
            model_dim,
            (s.kv_heads, s.group + 2, s.width),
            use_bias=s.bias,
            kernel_init=nnx.initializers.normal(INIT_STD),
            rngs=rngs,
        )
        if s.out != "none":
            self.out = nnx.LinearGeneral(
                (s.heads, s.width),
                model_dim,
                axis=(-2, -1),
                use_bias=s.out == "bias",
                kernel_init=out_init,
                rngs=rngs,
            )
        self.spec = s

    def __call__(self, x_btd: jax.Array, layer: ArrayLike, attend: Attend) -> tuple[jax.Array, Any]:
        """The output (B, T, D), and the other output of `attend`."""
        mixed_btnh, extra = attend(*self.project(x_btd), self.spec.scale_of(layer))
        if self.spec.out == "none":
            return mixed_btnh.reshape(*mixed_btnh.shape[:2], -1), extra
        return self.out(mixed_btnh), extra

    def project(self, x_btd: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries (B, T, N, H), keys and values (B, T, M, H), by one matrix product."""
        group = self.spec.group
        q_btnh, k_btmh, v_btmh = self._products(x_btd, 0, [group, group + 1])
        return q_btnh, k_btmh, v_btmh

    def keys_values(self, x_btd: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values (B, T, M, H) alone."""
        k_btmh, v_btmh = self._products(x_btd, self.spec.group, [1])
        return k_btmh, v_btmh

    def _products(self, x_btd: jax.Array, first: int, cuts: list[int]) -> list[jax.Array]:
        """The product with each group's matrices from `first` on, as parts cut at `cuts`."""
        product = jnp.tensordot(x_btd, self.qkv.kernel[:, :, first:], axes=1)
        if self.qkv.bias is not None:
            product += self.qkv.bias[:, first:]
        # The gradient of slices would be a sum of padded arrays: a step would take 6 % longer.
        parts = jnp.split(product, cuts, axis=3)
        return [part.reshape(*x_btd.shape[:2], -1, self.spec.width) for part in parts]

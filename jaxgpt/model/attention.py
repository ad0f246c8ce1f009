"""Attention: its projections, and the norms and rotation of queries and keys.

The function that combines queries, keys and values is an argument, an Attend: `causal`, one that
attends to all positions of a memory, or one that a caller makes.

Shapes: B batch, T time, S time of the memory, D model width, M heads of keys and values, G queries
for each, H head width.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from jaxgpt.model import attention_forms, spec
from jaxgpt.model.initial import INIT_STD
from jaxgpt.model.linear import linear, product
from jaxgpt.model.norms import Norm
from jaxgpt.model.positions import rotate

# (queries (B, T, M, G, H), keys and values (B, T, M, H), scale, Scores) -> the weighted sums of the
# values, in the shape of the queries, and any other output that the caller wants. An Attend made
# from a form also takes segments (B, T).
Attend = Callable[..., tuple[jax.Array, Any]]


def keep_nothing(form: attention_forms.Form) -> Attend:
    """`form` as an Attend whose other output is None."""
    return lambda *parts: (form(*parts), None)


causal = keep_nothing(attention_forms.chunked)


def within(attend: Attend, segments_bt: jax.Array | None) -> Attend:
    """`attend` restricted to the texts of a row, numbered by `segments_bt`; None restricts
    nothing."""
    if segments_bt is None:
        return attend
    return lambda *parts: attend(*parts, segments_bt)


def attending_to_all(mask_bs: jax.Array) -> Attend:
    """The Attend by which each position sees all positions for which `mask_bs` is true."""
    return keep_nothing(partial(attention_forms.unordered, mask_bs=mask_bs))


class Memory(NamedTuple):
    """What cross-attention sees: keys and values of another text, and a mask of the real ones.

    A memory for several layers has a leading axis of layers.
    """

    keys_bsmh: jax.Array
    values_bsmh: jax.Array
    mask_bs: jax.Array

    @property
    def attend(self) -> Attend:
        """The function that attends to these keys and values."""
        return attending_to_all(self.mask_bs)


class Attention(nnx.Module):
    """Attention with one projection to queries, keys and values.

    The kernel has an axis of key heads; each entry stores its G query heads, then its key and
    value.
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
        if s.qk_norm == "full_width":
            self.q_norm = Norm(s.norm, s.kv_heads, s.group, s.width)
            self.k_norm = Norm(s.norm, s.kv_heads, 1, s.width)
        elif s.qk_norm != "none":
            self.q_norm, self.k_norm = Norm(s.norm, s.width), Norm(s.norm, s.width)
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

    def __call__(
        self, x_btd: jax.Array, layer: ArrayLike, positions: jax.Array, attend: Attend
    ) -> tuple[jax.Array, Any]:
        """The output (B, T, D), and the other output of `attend`.

        `positions` are (T,) or (B, T).
        """
        parts = self.project(x_btd, layer, positions)
        mixed_btmgh, extra = self._with_scores_of(layer, partial(attend, *parts))
        return self._joined(mixed_btmgh), extra

    def across(self, x_btd: jax.Array, layer: ArrayLike, memory: Memory) -> tuple[jax.Array, Any]:
        """The output (B, T, D) of queries from `x_btd`, and the other output of `memory.attend`."""
        parts = self._queries(x_btd, layer), memory.keys_bsmh, memory.values_bsmh
        mixed_btmgh, extra = self._with_scores_of(layer, partial(memory.attend, *parts))
        return self._joined(mixed_btmgh), extra

    def keep_queries(self) -> None:
        """Drop the projections to keys and values. Only `across` works then, without copying slices
        of the kernel.
        """
        self.qkv.kernel.set_value(self.qkv.kernel[:, :, : self.spec.group])
        if self.qkv.bias is not None:
            self.qkv.bias.set_value(self.qkv.bias[:, : self.spec.group])

    def _queries(self, x_btd: jax.Array, layer: ArrayLike) -> jax.Array:
        """Queries (B, T, M, G, H) for a memory, which has no positions."""
        (q_btmgh,) = self._products(x_btd, slice(0, self.spec.group), [])
        return self._norm_and_rotate(q_btmgh, "q_norm", layer, jnp.arange(x_btd.shape[1]))

    def project(
        self, x_btd: jax.Array, layer: ArrayLike, positions: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries (B, T, M, G, H), keys and values (B, T, M, H), by one matrix product."""
        group = self.spec.group
        q_btmgh, k_btm1h, v_btm1h = self._products(x_btd, slice(0, None), [group, group + 1])
        q_btmgh = self._norm_and_rotate(q_btmgh, "q_norm", layer, positions)
        k_btm1h = self._norm_and_rotate(k_btm1h, "k_norm", layer, positions)
        return q_btmgh, k_btm1h[:, :, :, 0], v_btm1h[:, :, :, 0]

    def keys_values(
        self, x_btd: jax.Array, layer: ArrayLike, positions: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Keys and values (B, T, M, H) alone."""
        k_btm1h, v_btm1h = self._products(x_btd, slice(self.spec.group, None), [1])
        k_btm1h = self._norm_and_rotate(k_btm1h, "k_norm", layer, positions)
        return k_btm1h[:, :, :, 0], v_btm1h[:, :, :, 0]

    def _products(self, x_btd: jax.Array, rows: slice, cuts: list[int]) -> list[jax.Array]:
        """Project the stream by one matrix product, and split the result at `cuts`.

        Each key head has its queries, its key and its value, in this order; `rows` selects among
        these.
        """
        # Not by slices: their gradient is a sum of padded arrays, and a step would take 6 % longer.
        parts = jnp.split(product(x_btd, self.qkv.kernel[:, :, rows]), cuts, axis=3)
        if self.qkv.bias is None:
            return parts
        # Added after the split: otherwise XLA joins the gradients of the parts once more for the
        # bias.
        biases = jnp.split(self.qkv.bias[:, rows], cuts, axis=1)
        return [part + bias for part, bias in zip(parts, biases, strict=True)]

    def _joined(self, mixed_btmgh: jax.Array) -> jax.Array:
        """The output (B, T, D) of all heads."""
        rows, time, heads, groups, width = (
            mixed_btmgh.shape
        )  # the size cannot be -1, as there may be no rows
        if self.spec.out == "none":
            return mixed_btmgh.reshape(rows, time, heads * groups * width)
        heads_btnh = mixed_btmgh.reshape(rows, time, heads * groups, width)
        return linear(self.out, heads_btnh, inputs=2)

    def _norm_and_rotate(
        self, heads: jax.Array, norm: str, layer: ArrayLike, positions: jax.Array
    ) -> jax.Array:
        """Queries or keys `heads` after the norm called `norm`, if there is one, and rotation."""
        rotary, qk_norm = self.spec.rotary, self.spec.qk_norm
        if qk_norm in ("before_rotary", "full_width"):
            heads = getattr(self, norm)(heads)
        if rotary is not None:
            heads = rotate(rotary, heads, layer, positions)
        return getattr(self, norm)(heads) if qk_norm == "after_rotary" else heads

    def _with_scores_of(self, layer: ArrayLike, attend: Attend) -> tuple[jax.Array, Any]:
        """Call `attend` with the scale and the Scores of `layer`, which may be traced."""
        scale, by_layer = self.spec.scale_of(layer), self.spec.scores
        kinds = list(dict.fromkeys(by_layer))
        if len(kinds) == 1:
            return attend(scale, kinds[0])
        if isinstance(layer, int):
            return attend(scale, by_layer[layer])
        kind = jnp.asarray([kinds.index(each) for each in by_layer])[layer]
        return jax.lax.switch(kind, [lambda each=each: attend(scale, each) for each in kinds])

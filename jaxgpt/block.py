"""A block of the GPT: attention and MLP, in the order of the torch class. Knows nothing of embeddings and heads.

Shapes: B batch, T time, D model width, N heads, H head width, F mlp width.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from jaxgpt.attention import Attend, chunked
from jaxgpt.config import ModelConfig
from jaxgpt.layers import INIT_STD, LayerNorm, dropout

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


Keep = Callable[[jax.Array], jax.Array]  # of (B, T, D), some of the positions


class Attention(nnx.Module):
    def __init__(self, c: ModelConfig, rngs: nnx.Rngs):
        heads = (c.num_heads, c.head_dim)
        project = functools.partial(
            nnx.LinearGeneral,
            c.model_dim,
            heads,
            use_bias=c.qkv_bias,
            kernel_init=nnx.initializers.normal(INIT_STD),
            rngs=rngs,
        )
        self.key: nnx.LinearGeneral | None = project()
        self.query = project()
        self.value: nnx.LinearGeneral | None = project()
        if c.attention_out:
            self.out = nnx.LinearGeneral(
                heads,
                c.model_dim,
                axis=(-2, -1),
                use_bias=c.attention_out_bias,
                kernel_init=residual_init(c),
                rngs=rngs,
            )
        self.config = c

    def __call__(self, x_btd: jax.Array, layer: ArrayLike, attend: Attend, keep: Keep | None = None) -> jax.Array:
        c = self.config
        mixed_btnh = attend(*self.project(x_btd, keep), attention_scale(c, layer))
        return self.out(mixed_btnh) if c.attention_out else mixed_btnh.reshape(*mixed_btnh.shape[:2], -1)

    def project(self, x_btd: jax.Array, keep: Keep | None = None) -> tuple[jax.Array, ...]:
        """Queries, keys and values by one matrix product: on a CPU three narrow ones take longer."""
        kernel, bias = self.joined()

        def by(x_btd: jax.Array, which: slice) -> tuple[jax.Array, ...]:
            some = jnp.tensordot(x_btd, kernel[:, which], axes=1)
            return jnp.unstack(some if bias is None else some + bias[which], axis=2)

        return (*by(x_btd, slice(3)),) if keep is None else (*by(keep(x_btd), slice(1)), *by(x_btd, slice(1, 3)))

    def joined(self) -> tuple[jax.Array, jax.Array | None]:
        """On an axis of their own: heads that are divided among devices stay where they are."""
        if self.key is None or self.value is None:
            return self.query.kernel[...], None if self.query.bias is None else self.query.bias[...]
        parts = (self.query, self.key, self.value)
        biases = [part.bias[...] for part in parts if part.bias is not None]
        return jnp.stack([part.kernel[...] for part in parts], axis=1), jnp.stack(biases) if biases else None

    def join(self) -> None:
        """Once and for all: where few positions come at a time, putting the matrices together takes longer than their
        product. What is left cannot be saved or trained."""
        kernel, bias = self.joined()
        self.query.kernel.set_value(kernel)
        if self.query.bias is not None and bias is not None:
            self.query.bias.set_value(bias)
        self.key = self.value = None


class Mlp(nnx.Module):
    def __init__(self, c: ModelConfig, rngs: nnx.Rngs):
        up_init = nnx.initializers.normal(INIT_STD)
        self.up = nnx.Linear(c.model_dim, c.mlp_dim, use_bias=c.mlp_bias, kernel_init=up_init, rngs=rngs)
        self.down = nnx.Linear(c.mlp_dim, c.model_dim, use_bias=c.mlp_bias, kernel_init=residual_init(c), rngs=rngs)
        self.activation = c.activation

    def __call__(self, x_btd: jax.Array) -> jax.Array:
        return self.down(ACTIVATIONS[self.activation](self.up(x_btd)))


class Block(nnx.Module):
    def __init__(self, c: ModelConfig, rngs: nnx.Rngs):
        self.attn = Attention(c, rngs)
        self.mlp = Mlp(c, rngs)
        self.norm1 = LayerNorm(c)
        self.norm2 = LayerNorm(c)
        self.config = c

    def __call__(
        self,
        x: jax.Array,
        layer: ArrayLike,
        dropout_key: jax.Array | None = None,
        attend: Attend = chunked,
        keep: Keep | None = None,
    ) -> jax.Array:
        """`attend` may be another one, that remembers what it has seen or shows where it looks; `keep` picks the
        positions that are wanted: only these have queries, and go on."""
        rate, norm, kept = self.config.dropout, self.config.norm, keep or (lambda x: x)
        key1, key2 = (None, None) if dropout_key is None else jax.random.split(jax.random.fold_in(dropout_key, layer))
        if norm == "pre":
            x = kept(x) + dropout(self.attn(self.norm1(x), layer, attend, keep), rate, key1)
            return x + dropout(self.mlp(self.norm2(x)), rate, key2)
        if norm == "post":
            x = self.norm1(kept(x) + dropout(self.attn(x, layer, attend, keep), rate, key1))
            return self.norm2(x + dropout(self.mlp(x), rate, key2))
        x = self.norm1(x)
        x = self.norm2(kept(x) + dropout(self.attn(x, layer, attend, keep), rate, key1))
        return x + dropout(self.mlp(x), rate, key2)


def attention_scale(c: ModelConfig, layer: ArrayLike) -> ArrayLike:
    """What scores are multiplied by."""
    scale = {"head_dim": c.head_dim, "model_dim": c.model_dim, "none": 1}[c.attention_scale] ** -0.5
    return scale / (layer + 1) if c.attention_scale_by_layer else scale


def residual_init(c: ModelConfig) -> nnx.Initializer:
    """Each block adds to the stream twice; GPT-2's start keeps its variance independent of depth."""
    return nnx.initializers.normal(INIT_STD / (2 * c.num_blocks) ** 0.5)

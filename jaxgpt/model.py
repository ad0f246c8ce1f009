"""The GPT, written in the order of the torch class. Knows no file, no optimiser and no device.

Modules are NNX; the rest of the program sees a plain nested dict of arrays (`params_of`, `assemble`). Blocks are
stacked: layer is the leading axis of every array under `blocks`.

Shapes: B batch, T time, D model width, N heads, H head width, F mlp width, L layers, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from jaxgpt.attention import attend
from jaxgpt.config import ModelConfig, UserError, require
from jaxgpt.layers import INIT_STD, Embed, LayerNorm, dropout, sinusoids
from jaxgpt.tree import Tree, require_same

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


class States(NamedTuple):
    """What flows through the model, stage by stage: to see where two implementations part."""

    embedding: jax.Array  # B T D
    blocks: jax.Array  # L B T D
    final: jax.Array  # B T D, after the final norm
    logits: jax.Array  # B T V


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
        self.key = project()
        self.query = project()
        self.value = project()
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

    def __call__(self, x_btd: jax.Array, layer: jax.Array) -> jax.Array:
        c = self.config
        width = {"head_dim": c.head_dim, "model_dim": c.model_dim, "none": 1}[c.attention_scale]
        scale = width**-0.5 / (layer + 1) if c.attention_scale_by_layer else width**-0.5
        mixed_btnh = attend(*self.project(x_btd), scale)
        return self.out(mixed_btnh) if c.attention_out else mixed_btnh.reshape(x_btd.shape)

    def project(self, x_btd: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values by one matrix product: on a CPU three narrow ones take longer."""
        parts = (self.query, self.key, self.value)
        all_btnh = jnp.tensordot(x_btd, jnp.concatenate([part.kernel[...] for part in parts], axis=1), axes=1)
        if biases := [part.bias[...] for part in parts if part.bias is not None]:
            all_btnh += jnp.concatenate(biases)
        query, key, value = jnp.split(all_btnh, 3, axis=2)
        return query, key, value


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

    def __call__(self, x: jax.Array, layer: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        rate = self.config.dropout
        key1, key2 = (None, None) if dropout_key is None else jax.random.split(jax.random.fold_in(dropout_key, layer))
        if self.config.norm == "pre":
            x = x + dropout(self.attn(self.norm1(x), layer), rate, key1)
            return x + dropout(self.mlp(self.norm2(x)), rate, key2)
        x = self.norm1(x + dropout(self.attn(x, layer), rate, key1))
        return self.norm2(x + dropout(self.mlp(x), rate, key2))


class Head(nnx.Module):
    """Hidden states to logits; a tied head borrows the token embedding and owns at most a bias."""

    def __init__(self, c: ModelConfig, rngs: nnx.Rngs):
        if not c.tied:
            self.kernel = nnx.Param(
                INIT_STD * jax.random.normal(rngs.params(), (c.model_dim, c.vocab_size), jnp.float32)
            )
        if c.head_bias:
            self.bias = nnx.Param(jnp.zeros(c.vocab_size, jnp.float32))
        self.config = c

    def __call__(self, x_btd: jax.Array, embedding_vd: jax.Array) -> jax.Array:
        logits = x_btd @ (embedding_vd.T if self.config.tied else self.kernel[...])
        return logits + self.bias[...] if self.config.head_bias else logits


class GPT(nnx.Module):
    """int ids (B, T) -> logits (B, T, V), in the dtype of the parameters."""

    def __init__(self, config: ModelConfig, seed: int = 0):
        c = config
        require(c.vocab_size > 0, "vocab_size must be positive, but is 0.")
        rngs = nnx.Rngs(seed)
        self.token_embedding = Embed(c.vocab_size, c, rngs)
        if c.positions == "learned":
            self.pos_embedding = Embed(c.context_length, c, rngs)
        layer_keys = jax.random.split(rngs.params(), c.num_blocks)
        self.blocks = jax.vmap(lambda key: Block(c, nnx.Rngs(key)))(layer_keys)
        if c.final_norm:
            self.final_norm = LayerNorm(c)
        self.head = Head(c, rngs)
        self.config = c

    @property
    def dtype(self) -> jnp.dtype:
        """In which it computes: the widest of its parameters'."""
        return functools.reduce(jnp.promote_types, {leaf.dtype for leaf in jax.tree.leaves(params_of(self))})

    def __call__(self, tokens: ArrayLike) -> jax.Array:
        """For people: ids are checked on the host, and matrices multiply at full precision on every device."""
        check_tokens(tokens, self.config)
        with jax.enable_x64(self.dtype == jnp.float64), jax.default_matmul_precision("highest"):
            return _logits(self, jnp.asarray(tokens, jnp.int32), self.dtype)

    def logits(self, tokens_bt: jax.Array, dropout_key: jax.Array | None = None, unroll: int = 1) -> jax.Array:
        """For programs: pure and traceable, nothing checked; dropout is on exactly when a key is given."""

        def body(x: jax.Array, block_and_layer: tuple[Block, jax.Array]) -> tuple[jax.Array, None]:
            block, layer = block_and_layer
            return block(x, layer, dropout_key), None

        x, _ = jax.lax.scan(body, self.embed(tokens_bt), self._layers(), unroll=unroll)
        return self.head(self.normalise(x), self.token_embedding.embedding[...])

    def states(self, tokens_bt: jax.Array) -> States:
        def body(x: jax.Array, block_and_layer: tuple[Block, jax.Array]) -> tuple[jax.Array, jax.Array]:
            block, layer = block_and_layer
            x = block(x, layer, None)
            return x, x

        embedding = self.embed(tokens_bt)
        x, blocks = jax.lax.scan(body, embedding, self._layers())
        final = self.normalise(x)
        return States(embedding, blocks, final, self.head(final, self.token_embedding.embedding[...]))

    def embed(self, tokens_bt: jax.Array) -> jax.Array:
        c, length = self.config, tokens_bt.shape[1]
        x_btd = self.token_embedding(tokens_bt)
        if c.positions == "learned":
            return x_btd + self.pos_embedding.embedding[...][:length]
        return x_btd + sinusoids(length, c.model_dim).astype(x_btd.dtype)

    def normalise(self, x_btd: jax.Array) -> jax.Array:
        return self.final_norm(x_btd) if self.config.final_norm is True else x_btd

    def _layers(self) -> tuple[Block, jax.Array]:
        return self.blocks, jnp.arange(self.config.num_blocks)


@functools.partial(jax.jit, static_argnums=2)
def _logits(model: GPT, tokens_bt: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), model).logits(tokens_bt)


def residual_init(c: ModelConfig) -> nnx.Initializer:
    """Each block adds to the stream twice; GPT-2's start keeps its variance independent of depth."""
    return nnx.initializers.normal(INIT_STD / (2 * c.num_blocks) ** 0.5)


def check_tokens(tokens: ArrayLike, config: ModelConfig) -> None:
    """JAX clamps, wraps or fills ids that do not exist and never raises, so the host looks first."""
    ids = np.asarray(tokens)
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise UserError(f"Tokens must be whole numbers of shape (batch, time), but are {ids.dtype} {ids.shape}.")
    length = ids.shape[1]
    if not 0 < length <= config.context_length:
        raise UserError(f"A sequence of {length} tokens does not fit the context length {config.context_length}.")
    wrong = np.argwhere((ids < 0) | (ids >= config.vocab_size))
    if len(wrong):
        row, column = wrong[0]
        raise UserError(
            f"Token id {ids[row, column]} at row {row}, position {column} lies outside the vocabulary of "
            f"{config.vocab_size} (ids 0 to {config.vocab_size - 1}); {len(wrong)} such ids in all."
        )


def params_of(model: GPT) -> Tree:
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


@functools.cache
def _blueprint(config: ModelConfig) -> tuple[nnx.GraphDef, Tree]:
    graph, state = nnx.split(nnx.eval_shape(lambda: GPT(config)))
    return graph, nnx.to_pure_dict(state)


def abstract_params(config: ModelConfig) -> Tree:
    """Shape and dtype of every parameter, without making one."""
    return _blueprint(config)[1]


def assemble(config: ModelConfig, params: Tree) -> GPT:
    """The inverse of `params_of`. NNX would take wrong shapes, missing and extra names without a word."""
    graph, expected = _blueprint(config)
    require_same(expected, params, "This set of parameters")
    return nnx.merge(graph, params)

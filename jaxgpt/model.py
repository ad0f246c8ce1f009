"""The GPT, written in the order of the torch class. Knows no file, no optimiser and no device.

Modules are NNX; the rest of the program sees a plain nested dict of arrays (`params_of`, `assemble`). Blocks are
stacked: layer is the leading axis of every array under `blocks`.

Shapes: B batch, T time, D model width, N heads, H head width, F mlp width, L layers, V vocabulary.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from jaxgpt.attention import Attend, chunked
from jaxgpt.block import Block
from jaxgpt.config import ModelConfig, UserError, require
from jaxgpt.layers import INIT_STD, Embed, LayerNorm, sinusoids
from jaxgpt.tree import Tree, require_same

POLICIES = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}  # what is kept


class States(NamedTuple):
    """What flows through the model, stage by stage: to see where two implementations part."""

    embedding: jax.Array  # B T D
    blocks: jax.Array  # L B T D
    final: jax.Array  # B T D, after the final norm
    logits: jax.Array  # B T V


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
        if c.position_rows:
            self.pos_embedding = Embed(c.position_rows, c, rngs)
        if c.positions_stored:
            self.pos_embedding.embedding.set_value(jnp.asarray(sinusoids(c.position_rows, c.model_dim), jnp.float32))
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
        with exactly(self.dtype):
            return _logits(self, jnp.asarray(tokens, jnp.int32), self.dtype)

    def logits(self, tokens_bt: jax.Array, dropout_key: jax.Array | None = None) -> jax.Array:
        """For programs: pure and traceable, nothing checked; dropout is on exactly when a key is given."""
        return self.read_out(self.hidden(tokens_bt, dropout_key))

    def hidden(
        self,
        tokens_bt: jax.Array,
        dropout_key: jax.Array | None = None,
        unroll: int = 1,
        remat: str = "none",
        attend: Attend = chunked,
        before: Callable[[Block, jax.Array], tuple[Block, jax.Array]] = lambda block, x: (block, x),
    ) -> jax.Array:
        """What `read_out` reads. `remat` says what the backward pass computes again, `before` sees each block, and what
        enters it."""

        def body(x: jax.Array, block_and_layer: tuple[Block, jax.Array]) -> tuple[jax.Array, None]:
            block, x = before(block_and_layer[0], x)
            return block(x, block_and_layer[1], dropout_key, attend), None

        if remat != "none":
            body = jax.checkpoint(body, prevent_cse=False, policy=POLICIES[remat])
        x, _ = jax.lax.scan(body, self.embed(tokens_bt), self.layers(), unroll=unroll)
        return x

    def states(self, tokens_bt: jax.Array) -> States:
        def body(x: jax.Array, block_and_layer: tuple[Block, jax.Array]) -> tuple[jax.Array, jax.Array]:
            block, layer = block_and_layer
            x = block(x, layer)
            return x, x

        embedding = self.embed(tokens_bt)
        x, blocks = jax.lax.scan(body, embedding, self.layers())
        return States(embedding, blocks, self.normalise(x), self.read_out(x))

    def embed(self, tokens_bt: jax.Array, positions_bt: jax.Array | None = None) -> jax.Array:
        """Positions count from 0 unless others are given."""
        c = self.config
        first = c.positions_offset
        where = slice(first, first + tokens_bt.shape[1]) if positions_bt is None else first + positions_bt
        x_btd = self.token_embedding(tokens_bt)
        return x_btd + self.position_table()[where].astype(x_btd.dtype)

    def position_table(self) -> jax.Array:
        c = self.config
        if not c.position_rows:
            return jnp.asarray(sinusoids(c.context_length, c.model_dim))
        table = self.pos_embedding.embedding[...]
        return jax.lax.stop_gradient(table) if c.positions_stored else table

    def normalise(self, x_btd: jax.Array) -> jax.Array:
        return self.final_norm(x_btd) if self.config.final_norm is True else x_btd

    def read_out(self, x_btd: jax.Array) -> jax.Array:
        return self.head(self.normalise(x_btd), self.token_embedding.embedding[...])

    def layers(self) -> tuple[Block, jax.Array]:
        return self.blocks, jnp.arange(self.config.num_blocks)


@contextlib.contextmanager
def exactly(dtype: jnp.dtype) -> Iterator[None]:
    """Matrices multiply at full precision on every device, and float64 is not turned into float32."""
    with jax.enable_x64(dtype == jnp.float64), jax.default_matmul_precision("highest"):
        yield


@functools.partial(jax.jit, static_argnums=2)
def _logits(model: GPT, tokens_bt: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), model).logits(tokens_bt)


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

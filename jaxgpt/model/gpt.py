"""The GPT, written in the order of the torch class in `convert/reference.py`.

Modules are NNX; the rest of the program sees a nested dict of arrays (`params_of`, `assemble`).

Shapes: B batch, T time, D model width, L layers, V vocabulary.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError, require
from jaxgpt.model import spec
from jaxgpt.model.attention import INIT_STD, causal
from jaxgpt.model.block import Block
from jaxgpt.model.linear import product
from jaxgpt.model.norms import Norm
from jaxgpt.model.position_spec import Learned, Sinusoids
from jaxgpt.model.positions import sinusoids
from jaxgpt.model.stack import Stack
from jaxgpt.pytree import Tree, require_same


class States(NamedTuple):
    """The stream at each stage of the model, to locate where two implementations diverge."""

    embedding: jax.Array  # B T D
    blocks: jax.Array  # L B T D
    final: jax.Array  # B T D, after the final norm
    logits: jax.Array  # B T V


class Embed(nnx.Module):
    """A table of vectors; unlike nnx.Embed it returns the dtype of the table, also after a cast."""

    def __init__(self, rows: int, model_dim: int, rngs: nnx.Rngs):
        shape = (rows, model_dim)
        self.embedding = nnx.Param(INIT_STD * jax.random.normal(rngs.params(), shape, jnp.float32))

    def __call__(self, ids_bt: jax.Array) -> jax.Array:
        return jnp.take(self.embedding[...], ids_bt, axis=0)


class Head(nnx.Module):
    """The projection to logits; a tied head uses the token embedding and owns at most a bias."""

    def __init__(self, s: spec.Head, model_dim: int, vocab_size: int, rngs: nnx.Rngs):
        if not s.tied:
            shape = (model_dim, vocab_size)
            self.kernel = nnx.Param(INIT_STD * jax.random.normal(rngs.params(), shape, jnp.float32))
        if s.bias:
            self.bias = nnx.Param(jnp.zeros(vocab_size, jnp.float32))
        self.spec = s

    def __call__(self, x_btd: jax.Array, embedding_vd: jax.Array) -> jax.Array:
        logits = product(x_btd, embedding_vd.T if self.spec.tied else self.kernel[...])
        if self.spec.bias:
            logits = logits + self.bias[...]
        if self.spec.scale != 1:
            logits = logits * self.spec.scale
        cap = self.spec.softcap
        return logits if cap is None else cap * jnp.tanh(logits / cap)


class GPT(Stack):
    """The language model: ids (B, T) -> logits (B, T, V), in the dtype of the parameters.

    `GPT(config, seed)` has random weights drawn from `seed`.
    """

    def __init__(self, config: ModelConfig, seed: int = 0):
        require(
            config.vocab_size > 0,
            "vocab_size is 0: say how many token ids there are, as in ModelConfig(vocab_size=104).",
        )
        s, rngs = spec.make_spec(config), nnx.Rngs(seed)
        self.token_embedding = Embed(s.vocab_size, s.model_dim, rngs)
        if s.position_rows:
            self.pos_embedding = Embed(s.position_rows, s.model_dim, rngs)
        if isinstance(s.positions, Sinusoids) and s.positions.stored:
            table = sinusoids(s.position_rows, s.model_dim, s.positions.layout)
            self.pos_embedding.embedding.set_value(jnp.asarray(table, jnp.float32))
        if s.embedding_norm:
            self.embedding_norm = Norm(s.block.norm, s.model_dim)
        super().__init__(s.block, s.model_dim, s.num_blocks, rngs)
        if s.final_norm != "none":
            self.final_norm = Norm(s.block.norm, s.model_dim)
        self.head = Head(s.head, s.model_dim, s.vocab_size, rngs)
        self.config, self.spec = config, s

    @property
    def dtype(self) -> jnp.dtype:
        """The compute dtype: the widest parameter dtype."""
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(params_of(self))}
        return functools.reduce(jnp.promote_types, dtypes)

    def __call__(self, tokens: ArrayLike) -> jax.Array:
        """Logits of `tokens`, with ids checked on the host and products at full precision."""
        check_tokens(tokens, self.config)
        with exactly(self.dtype):
            return _logits(self, jnp.asarray(tokens, jnp.int32), self.dtype)

    def logits(self, tokens_bt: jax.Array, dropout_key: jax.Array | None = None) -> jax.Array:
        """Logits (B, T, V), traceable and unchecked; dropout is on when a key is given."""
        positions = jnp.arange(tokens_bt.shape[1])
        x_btd, _ = self.run(
            self.embed(tokens_bt),
            lambda block, layer, x: block(x, layer, positions, causal, dropout_key),
        )
        return self.read_out(x_btd)

    def states(self, tokens_bt: jax.Array) -> States:
        """The stream after the embedding, each block and the final norm, and the logits."""

        def apply(block: Block, layer: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            x, _ = block(x, layer, jnp.arange(tokens_bt.shape[1]))
            return x, x

        embedding = self.embed(tokens_bt)
        x, blocks = self.run(embedding, apply)
        return States(embedding, blocks, self.normalise(x), self.read_out(x))

    def embed(self, tokens_bt: jax.Array, positions_bt: jax.Array | None = None) -> jax.Array:
        """The stream (B, T, D) before the first block; positions count from 0 unless given."""
        x_btd = self.token_embedding(tokens_bt)
        if self.spec.embedding_scale != 1:
            x_btd = x_btd * self.spec.embedding_scale
        match self.spec.positions:
            case Learned(offset=first) | Sinusoids(offset=first):
                if positions_bt is None:
                    where: slice | jax.Array = slice(first, first + tokens_bt.shape[1])
                else:
                    where = first + positions_bt
                x_btd = x_btd + self.position_table()[where].astype(x_btd.dtype)
        return self.embedding_norm(x_btd) if self.spec.embedding_norm else x_btd

    def position_table(self) -> jax.Array:
        """The position vectors, one row for each position."""
        match self.spec.positions:
            case Sinusoids(rows, stored=False, layout=layout):
                return jnp.asarray(sinusoids(rows, self.spec.model_dim, layout))
            case Sinusoids():
                return jax.lax.stop_gradient(self.pos_embedding.embedding[...])
        return self.pos_embedding.embedding[...]

    def normalise(self, x_btd: jax.Array) -> jax.Array:
        """`x_btd` after the final norm, where the model has one that is applied."""
        return self.final_norm(x_btd) if self.spec.final_norm == "applied" else x_btd

    def read_out(self, x_btd: jax.Array) -> jax.Array:
        """Logits of the stream after the last block."""
        return self.head(self.normalise(x_btd), self.token_embedding.embedding[...])


@contextlib.contextmanager
def exactly(dtype: jnp.dtype) -> Iterator[None]:
    """Context in which products have full precision on every device, and float64 is kept."""
    with jax.enable_x64(dtype == jnp.float64), jax.default_matmul_precision("highest"):
        yield


@functools.partial(jax.jit, static_argnums=2)
def _logits(model: GPT, tokens_bt: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return cast(model, dtype).logits(tokens_bt)


def cast(tree: Any, dtype: jnp.dtype | str) -> Any:
    """`tree` with every array in `dtype`: parameters, or a model."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def check_tokens(tokens: ArrayLike, config: ModelConfig) -> None:
    """Refuse ids outside the vocabulary and sequences outside the context.

    JAX clamps, wraps or fills such ids and never raises, so the host checks first.
    """
    if isinstance(tokens, jax.core.Tracer):
        raise UserError(
            "model(tokens) checks the ids on the host, but under jax.jit, jax.grad or jax.vmap "
            "they have no values yet. Call model.logits(tokens) there: it computes the same, "
            "unchecked."
        )
    ids = np.asarray(tokens)
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise UserError(
            f"Tokens must be whole numbers of shape (batch, time), but are {ids.dtype} {ids.shape}."
        )
    length = ids.shape[1]
    if not 0 < length <= config.context_length:
        raise UserError(
            f"A sequence of {length} tokens does not fit the context length "
            f"{config.context_length}."
        )
    wrong = np.argwhere((ids < 0) | (ids >= config.vocab_size))
    if len(wrong):
        row, column = wrong[0]
        raise UserError(
            f"Token id {ids[row, column]} at row {row}, position {column} lies outside the "
            f"vocabulary of {config.vocab_size} (ids 0 to {config.vocab_size - 1}); "
            f"{len(wrong)} such ids in all."
        )


def params_of(model: nnx.Module) -> Tree:
    """The parameters of `model` as a nested dict of arrays."""
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


@functools.cache
def _blueprint(config: ModelConfig) -> tuple[nnx.GraphDef, Tree]:
    """The module graph and the abstract parameters of a model."""
    graph, state = nnx.split(nnx.eval_shape(lambda: GPT(config)))
    return graph, nnx.to_pure_dict(state)


def abstract_params(config: ModelConfig) -> Tree:
    """Shape and dtype of every parameter, without allocating any."""
    return _blueprint(config)[1]


def assemble(config: ModelConfig, params: Tree) -> GPT:
    """The model with the parameters `params`; the inverse of `params_of`.

    NNX silently accepts wrong shapes, missing and extra names, so they are checked here.
    """
    graph, expected = _blueprint(config)
    require_same(expected, params, "This set of parameters")
    return nnx.merge(graph, params)

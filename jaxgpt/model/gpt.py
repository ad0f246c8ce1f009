"""The GPT, written in the order of the torch class in `convert/reference.py`.

Shapes: B batch, T time, S time of a memory, D model width, L layers, V vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike

from jaxgpt.config import ModelConfig
from jaxgpt.fields import signed
from jaxgpt.model import spec
from jaxgpt.model.attention import Memory, causal, within
from jaxgpt.model.backbone import Backbone
from jaxgpt.model.block import Block
from jaxgpt.model.checks import (
    check_memory,
    check_segments,
    check_tokens,
    require_vocabulary,
)
from jaxgpt.model.initial import INIT_STD
from jaxgpt.model.linear import product
from jaxgpt.model.positions import restarting
from jaxgpt.model.precision import cast, dtype_of, exactly


class States(NamedTuple):
    """The stream at each stage of the model, to locate where two implementations diverge."""

    embedding: jax.Array  # B T D
    blocks: jax.Array  # L B T D
    final: jax.Array  # B T D, after the final norm
    logits: jax.Array  # B T V


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


@signed
class GPT(Backbone):
    """The language model: ids (B, T) -> logits (B, T, V), in the dtype of the parameters.

    `GPT(config, seed)` has random weights drawn from `seed`.
    """

    def __init__(self, config: ModelConfig, seed: int = 0):
        require_vocabulary(config)
        s, rngs = spec.make_spec(config), nnx.Rngs(seed)
        super().__init__(s, rngs)
        self.head = Head(s.head, s.model_dim, s.vocab_size, rngs)
        self.config = config

    @property
    def dtype(self) -> jnp.dtype:
        """The compute dtype: the widest parameter dtype."""
        return dtype_of(self)

    def __call__(
        self,
        tokens: ArrayLike,
        memory: ArrayLike | None = None,
        memory_mask: ArrayLike | None = None,
        segments: ArrayLike | None = None,
    ) -> jax.Array:
        """Logits of `tokens`, with ids checked on the host and products at full precision.

        A model with cross-attention takes `memory` (B, S, D), and `memory_mask` (B, S) says which
        of its positions are real; by default all are. For rows of several texts, `segments` (B, T)
        has a number for each text: texts do not see each other, and positions count from 0 in each.
        """
        check_tokens(tokens, self.config)
        check_memory(tokens, memory, memory_mask, self.config)
        check_segments(tokens, segments)
        with exactly(self.dtype):
            if memory is not None:
                memory = jnp.asarray(memory, self.dtype)
                mask = np.ones(memory.shape[:2], bool) if memory_mask is None else memory_mask
                memory_mask = jnp.asarray(mask, bool)
            if segments is not None:
                segments = jnp.asarray(segments, jnp.int32)
            ids = jnp.asarray(tokens, jnp.int32)
            return _logits(self, ids, self.dtype, memory, memory_mask, segments)

    def logits(
        self,
        tokens_bt: jax.Array,
        dropout_key: jax.Array | None = None,
        memory: Memory | None = None,
        segments_bt: jax.Array | None = None,
    ) -> jax.Array:
        """Logits (B, T, V), traceable and unchecked; dropout is on when a key is given."""
        places = None if segments_bt is None else restarting(segments_bt)
        positions = jnp.arange(tokens_bt.shape[1]) if places is None else places
        attend = within(causal, segments_bt)

        def apply(block: Block, layer: jax.Array, x: jax.Array, memory: Memory | None) -> Any:
            return block(x, layer, positions, attend, dropout_key, memory)

        x_btd, _ = self.run(self.embed(tokens_bt, places), apply, memory)
        return self.read_out(x_btd)

    def states(self, tokens_bt: jax.Array, memory: Memory | None = None) -> States:
        """The stream after the embedding, each block and the final norm, and the logits."""

        def apply(block: Block, layer: jax.Array, x: jax.Array, memory: Memory | None) -> Any:
            x, _ = block(x, layer, jnp.arange(tokens_bt.shape[1]), memory=memory)
            return x, x

        embedding = self.embed(tokens_bt)
        x, blocks = self.run(embedding, apply, memory)
        return States(embedding, blocks, self.normalise(x), self.read_out(x))

    def read_out(self, x_btd: jax.Array) -> jax.Array:
        """Logits of the stream after the last block."""
        return self.head(self.normalise(x_btd), self.token_embedding.embedding[...])


@functools.partial(jax.jit, static_argnums=2)
def _logits(
    model: GPT,
    tokens_bt: jax.Array,
    dtype: jnp.dtype,
    memory_bsd: jax.Array | None,
    mask_bs: jax.Array | None,
    segments_bt: jax.Array | None,
) -> jax.Array:
    model, memory = cast(model, dtype), None
    if memory_bsd is not None and mask_bs is not None:
        memory = model.memory(memory_bsd, mask_bs)
    return model.logits(tokens_bt, memory=memory, segments_bt=segments_bt)

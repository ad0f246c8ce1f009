"""The encoder-decoder: an encoder reads the source, and a GPT with cross-attention attends to it.

Shapes: B batch, S time of the source, T time of the target, D model width, V vocabulary of the
target.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike

from jaxgpt.config import ModelConfig
from jaxgpt.fields import signed
from jaxgpt.model import spec
from jaxgpt.model.attention import Memory, attending_to_all
from jaxgpt.model.backbone import Backbone
from jaxgpt.model.block import Block
from jaxgpt.model.checks import check_mask, check_source, check_tokens, require_vocabulary
from jaxgpt.model.gpt import GPT
from jaxgpt.model.precision import cast, dtype_of, exactly
from jaxgpt.seq2seq_config import Seq2SeqConfig


class Encoder(Backbone):
    """The encoder: every position of the source sees all others."""

    def run_over(
        self, x_bsd: jax.Array, mask_bs: jax.Array, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """The memory (B, S, D): the stream `x_bsd` after all blocks and the final norm."""
        positions, attend = jnp.arange(x_bsd.shape[1]), attending_to_all(mask_bs)

        def apply(block: Block, layer: jax.Array, x: jax.Array, memory: Memory | None) -> Any:
            return block(x, layer, positions, attend, dropout_key)

        return self.normalise(self.run(x_bsd, apply)[0])


@signed
class Seq2Seq(nnx.Module):
    """An encoder-decoder: ids (B, S) of sources and ids (B, T) of targets -> logits (B, T, V).

    `Seq2Seq(encoder, decoder, seed)` has random weights drawn from `seed`.
    """

    def __init__(self, encoder: ModelConfig, decoder: ModelConfig, seed: int = 0):
        self.config = Seq2SeqConfig(encoder, decoder)
        require_vocabulary(encoder)
        self.decoder = GPT(decoder, seed)
        rngs = nnx.Rngs(jax.random.fold_in(jax.random.key(seed), 1))
        self.encoder = Encoder(
            spec.make_spec(encoder), rngs, owns_table=not encoder.shares_embedding
        )

    @property
    def dtype(self) -> jnp.dtype:
        """The compute dtype: the widest parameter dtype."""
        return dtype_of(self)

    def __call__(
        self, source: ArrayLike, tokens: ArrayLike, source_mask: ArrayLike | None = None
    ) -> jax.Array:
        """Logits of `tokens`, each row given its source.

        `source_mask` is true where a source id is not padding; by default nothing is padding. The
        ids are checked on the host, and products have full precision.
        """
        mask = np.ones(np.shape(source), bool) if source_mask is None else source_mask
        check_source(source, self.config.encoder)
        check_tokens(tokens, self.config.decoder)
        check_mask(mask, np.shape(source), len(np.asarray(tokens)))
        with exactly(self.dtype):
            ids = (jnp.asarray(each, jnp.int32) for each in (source, tokens))
            return _logits(self, *ids, jnp.asarray(mask, bool), self.dtype)

    def logits(
        self,
        source_bs: jax.Array,
        tokens_bt: jax.Array,
        mask_bs: jax.Array,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Logits (B, T, V), traceable and unchecked; dropout is on when a key is given."""
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        memory_bsd = self.encode(source_bs, mask_bs, keys[0])
        memory = self.decoder.memory(memory_bsd, mask_bs)
        return self.decoder.logits(tokens_bt, keys[1], memory)

    def encode(
        self, source_bs: jax.Array, mask_bs: jax.Array, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """The memory (B, S, D) of the sources."""
        return self.encoder.run_over(self.embed_source(source_bs), mask_bs, dropout_key)

    def embed_source(self, source_bs: jax.Array) -> jax.Array:
        """The stream (B, S, D) before the encoder's first block."""
        owner = self.decoder if self.config.encoder.shares_embedding else self.encoder
        return self.encoder.place(owner.token_embedding(source_bs))


@functools.partial(jax.jit, static_argnums=4)
def _logits(
    model: Seq2Seq,
    source_bs: jax.Array,
    tokens_bt: jax.Array,
    mask_bs: jax.Array,
    dtype: jnp.dtype,
) -> jax.Array:
    return cast(model, dtype).logits(source_bs, tokens_bt, mask_bs)

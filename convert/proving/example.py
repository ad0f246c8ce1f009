"""The inputs that both models are run on: tokens, and a source or memory to attend to."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxgpt.config import ModelConfig
from jaxgpt.model import GPT, Seq2Seq
from jaxgpt.model.attention import Memory, attending_to_all
from jaxgpt.model.block import Block
from jaxgpt.seq2seq_config import AnyConfig, Seq2SeqConfig

from ..foreign.layout import batch_first
from ..foreign.padding import Hidden
from ..foreign.with_context import WithContext

MEMORY = 13  # the length of a memory
LONGEST = 512  # tokens of an encoder-decoder: its tables of positions are often far longer
SPECIAL = 8  # ids at either end of a vocabulary, where padding and other special tokens are


class Example(NamedTuple):
    """Ids of a batch, and the source of an encoder-decoder or the memory of a decoder."""

    tokens: Any  # B T
    source: Any = None  # B S
    memory: Any = None  # B S D

    @staticmethod
    def of(tokens: "Example | Any") -> "Example":
        return tokens if isinstance(tokens, Example) else Example(np.asarray(tokens))

    @property
    def inputs(self) -> "Example":
        """The example without the last token of each row, which is only a target."""
        return self._replace(tokens=self.tokens[:, :-1])

    def part(self, rows: int, length: int) -> "Example":
        """The first `length` tokens of the first `rows`, with the complete source or memory."""
        source, memory = (
            None if each is None else each[:rows] for each in (self.source, self.memory)
        )
        return Example(self.tokens[:rows, :length], source, memory)

    def on_device(self) -> "Example":
        """The example as jax arrays, with ids of 32 bits."""
        ids = (
            None if each is None else jnp.asarray(each, jnp.int32)
            for each in (self.tokens, self.source)
        )
        tokens, source = ids
        return Example(tokens, source, self.memory)

    def given_to(self, module: torch.nn.Module) -> torch.nn.Module:
        """`module`, wrapped to take tokens alone."""
        if self.source is not None:
            return WithContext(module, torch.from_numpy(self.source.astype(np.int64)))
        if self.memory is not None:
            return WithContext(module, torch.from_numpy(self.memory))
        return batch_first(module, torch.from_numpy(self.tokens.astype(np.int64)))


def tokens_for(
    config: ModelConfig, special: Collection[int] = (), hidden: Collection[int] = ()
) -> np.ndarray:
    """Random ids of full length plus one, in more than one row, as a class may mix rows up.

    They include the ids `special` and the first and last of the vocabulary, which a class may treat
    as padding, and every id of a small vocabulary; none of those that are `hidden`.
    """
    random, vocabulary = np.random.default_rng(0), config.vocab_size
    rows = 4 if config.context_length * vocabulary < 2**25 else 2
    shape = rows, config.context_length + 1
    ends = {*range(min(SPECIAL, vocabulary)), *range(max(0, vocabulary - SPECIAL), vocabulary)}
    first = [*ends, *(id_ for id_ in special if 0 <= id_ < vocabulary and id_ not in ends)]
    others = random.permutation(np.setdiff1d(np.arange(vocabulary), first))
    ids = np.concatenate([first, others])
    ids = np.resize(ids[~np.isin(ids, list(hidden))], shape[0] * shape[1])
    return random.permutation(ids).reshape(shape)


def example_for(
    config: AnyConfig, special: Collection[int] = (), hidden: Hidden | None = None
) -> Example:
    """An example of full length plus one, with the ids `special` among those of `tokens_for`.

    The texts of an encoder-decoder have at most LONGEST tokens.
    """
    hidden = hidden or Hidden()
    if isinstance(config, Seq2SeqConfig):
        tokens = tokens_for(_cut(config.decoder), special, hidden.tokens)
        source = tokens_for(_cut(config.encoder), special, hidden.source)[:, :-1]
        rows = min(len(source), len(tokens))
        return Example(tokens[:rows], source[:rows])
    tokens = tokens_for(config, special, hidden.tokens)
    if not config.cross_attention:
        return Example(tokens)
    shape = len(tokens), MEMORY, config.model_dim
    return Example(tokens, memory=np.random.default_rng(1).standard_normal(shape))


def _cut(config: ModelConfig) -> ModelConfig:
    return replace(config, context_length=min(config.context_length, LONGEST))


def decoder_of(model: Any, example: Example) -> tuple[GPT, Any, jax.Array | None]:
    """The decoder of `model`, the memory that it attends to, and the encoder's blocks' outputs.

    Traceable: `example` holds arrays.
    """
    if isinstance(model, Seq2Seq):
        mask_bs = jnp.ones(example.source.shape, bool)
        positions = jnp.arange(mask_bs.shape[1])

        def apply(block: Block, layer: jax.Array, x: jax.Array, memory: Memory | None) -> Any:
            x, _ = block(x, layer, positions, attending_to_all(mask_bs))
            return x, x

        x_bsd, blocks = model.encoder.run(model.embed_source(example.source), apply)
        memory_bsd = model.encoder.normalise(x_bsd)
        return model.decoder, model.decoder.memory(memory_bsd, mask_bs), blocks
    if example.memory is None:
        return model, None, None
    mask_bs = jnp.ones(example.memory.shape[:2], bool)
    memory_bsd = example.memory.astype(model.dtype)
    return model, model.memory(memory_bsd, mask_bs), None


def logits_of_model(model: Any, example: Example) -> jax.Array:
    """Logits (B, T, V), traceable and unchecked."""
    decoder, memory, _ = decoder_of(model, example)
    return decoder.logits(example.tokens, memory=memory)

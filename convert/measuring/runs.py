"""Recorded runs of a module on random texts of two or more tokens."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from jaxgpt.config import ModelConfig
from jaxgpt.seq2seq_config import AnyConfig, Seq2SeqConfig

from ..foreign.padding import Hidden
from ..foreign.with_context import Caller
from .trace import TWINS, Seen, Trace

MOST_TEXTS = 512
SHORT = 2  # tokens, and also positions of a memory


@dataclass(frozen=True)
class Runs:
    """The runs of `module` as a model of `config`; each is made only once."""

    module: torch.nn.Module
    names: Mapping[str, str]  # names of the tensors in the module -> those in the file
    config: AnyConfig
    run: Caller
    hidden: Hidden
    # By length, number of texts, and whether there are a source and a memory.
    made: dict[tuple[int, int, bool, bool], Seen] = field(default_factory=dict)

    def seen(self, length: int, rows: int) -> Seen:
        """The recorded run on `rows` random texts; the first ones are equal."""
        decoder, *encoder = self._sides
        key = length, rows, bool(encoder), decoder.cross_attention
        if key not in self.made:
            random = np.random.default_rng(0)
            shape = rows, length
            ids = self._texts(random, decoder.vocab_size, shape, self.hidden.tokens)
            other, width = self._other(random, rows), decoder.model_dim
            trace = Trace(self.module, self.names, width)
            self.made[key] = Seen.of(trace, self.run, ids, width, other)
        return self.made[key]

    @property
    def pairs_of_tokens(self) -> Seen:
        """The recorded run on texts of two tokens, enough of them to solve for all angles."""
        return self.seen(SHORT, 1 << (max(map(_texts_for, self._sides)) - 1).bit_length())

    @property
    def _sides(self) -> list[ModelConfig]:
        """The configs of the decoder and, if there is one, of the encoder."""
        if isinstance(self.config, Seq2SeqConfig):
            return [self.config.decoder, self.config.encoder]
        return [self.config]

    def _other(self, random: np.random.Generator, rows: int) -> torch.Tensor | None:
        """Random sources or memories, if the model attends to any."""
        decoder, *encoder = self._sides
        if encoder:
            return self._texts(random, encoder[0].vocab_size, (rows, SHORT), self.hidden.source)
        if not decoder.cross_attention:
            return None
        memory = torch.from_numpy(random.standard_normal((rows, SHORT, decoder.model_dim)))
        memory[1:TWINS] = memory[0]
        return memory

    @staticmethod
    def _texts(
        random: np.random.Generator, size: int, shape: tuple[int, int], hidden: Collection[int]
    ) -> torch.Tensor:
        """Random ids below `size` without those that are `hidden`; the first rows are the same."""
        ids = torch.from_numpy(random.integers(0, size, shape))
        if hidden:
            seen = torch.tensor([each for each in range(size) if each not in hidden])
            ids = seen[ids % len(seen)]
        ids[1:TWINS] = ids[0]
        return ids


def _texts_for(config: ModelConfig) -> int:
    """The number of texts that give enough equations for all angles."""
    heads, width = config.num_heads, config.head_dim
    equations = 4 * (3 * width + heads + 4)
    return min(MOST_TEXTS, 16 + -(-equations // heads))

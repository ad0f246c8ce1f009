"""Finds the ids that a class hides as padding, by testing what its result depends on."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from jaxgpt.config import ModelConfig
from jaxgpt.seq2seq_config import AnyConfig, Seq2SeqConfig

from ..rows import whole
from ..rows.pair import AnyDialect
from .float64 import in_float64
from .peer import Peer
from .with_context import Caller

ENDS = 8  # ids tested at either end of a vocabulary, where padding usually is
CLOSE = 1e-12  # relative to the largest logit
EMBEDDING = "token_embedding/embedding"


class Hidden(NamedTuple):
    """The ids that a class hides, in a source and among the tokens."""

    source: frozenset[int] = frozenset()
    tokens: frozenset[int] = frozenset()
    alone: bool = False  # whether there is no source: then padding may precede a text as well

    @property
    def caveats(self) -> list[str]:
        """The sentences on the hidden ids that matter to a caller of the model."""
        source = (
            "{} in a source as padding; this model hides what source_mask says, so give it one "
            "where a source is padded"
        )
        tokens = (
            "{} as padding and this model does not: the two agree on a text as far as it has no "
            "such id"
        )
        sentences = ((source, self.source), (tokens, self.tokens if self.alone else ()))
        return [
            f"the class hides id {sentence.format(', '.join(map(str, sorted(ids))))}"
            for sentence, ids in sentences
            if ids
        ]


def hidden_ids(peer: Peer, dialect: AnyDialect, config: AnyConfig, run: Caller) -> Hidden:
    """The ids that a class hides when they are in its source or tokens.

    Not those of a decoder that attends to a memory of no known source.
    """
    tables = {w.flax: peer.names[w.torch] for w in whole.weights(dialect, config)}
    state = peer.module.state_dict(keep_vars=True)
    if not isinstance(config, Seq2SeqConfig):
        if config.cross_attention:
            return Hidden()
        return Hidden(tokens=_hidden_alone(state[tables[EMBEDDING]], config, run), alone=True)
    decoder = f"decoder/{EMBEDDING}"
    target = state[tables[decoder]]
    source = state[tables.get(f"encoder/{EMBEDDING}", tables[decoder])]
    one, two = _candidates(config.encoder), _candidates(config.decoder)
    plain = _plain(config.decoder, two).expand(max(len(one), 1), -1)
    others = _plain(config.encoder, one).expand(max(len(two), 1), -1)
    with torch.no_grad(), in_float64():
        sources = _texts(config.encoder, one)
        in_source = frozenset(_unseen(lambda ids: run(plain, ids), source, sources, one))
        texts = _texts(config.decoder, two)
        in_tokens = {
            *_unseen(lambda ids: run(ids, others)[:, 2:], target, texts, two),
            *_looking_ahead(lambda ids: run(ids, others)[:, 1], texts, two),
        }
        return Hidden(in_source, frozenset(in_tokens))


def _hidden_alone(table: torch.Tensor, config: ModelConfig, run: Caller) -> frozenset[int]:
    """The ids that a decoder alone hides; none if it seems to hide all that are tested.

    The vector of a hidden id matters where the id stands, and nowhere after it. An id whose vector
    never matters is not hidden: the class has another vector for it.
    """
    ids = _candidates(config)
    texts = _texts(config, ids)
    with torch.no_grad(), in_float64():
        after = {*_unseen(lambda texts: run(texts)[:, 2:], table, texts, ids)}
        itself = {*_unseen(lambda texts: run(texts)[:, 1:2], table, texts, ids)}
    return frozenset(after - itself if len(after) < len(ids) else ())


def _candidates(config: ModelConfig) -> list[int]:
    size = config.vocab_size
    ends = max(0, min(ENDS, (size - 3) // 2))
    return [*range(ends), *range(size - ends, size)]


def _plain(config: ModelConfig, candidates: list[int]) -> torch.Tensor:
    """A text (1, T) of ids other than the candidates."""
    first = len(candidates) // 2
    length = min(4, config.context_length)
    return (first + torch.arange(length) % (config.vocab_size - len(candidates)))[None]


def _texts(config: ModelConfig, candidates: list[int]) -> torch.Tensor:
    """One text for each of the `candidates`, with it as the second token."""
    texts = _plain(config, candidates).repeat(len(candidates), 1)
    texts[:, 1] = torch.tensor(candidates)
    return texts


def _unseen(
    run: Callable[[torch.Tensor], torch.Tensor],
    table: torch.Tensor,
    texts: torch.Tensor,
    candidates: list[int],
) -> Iterator[int]:
    """Yield the `candidates` whose vectors in `table` do not matter in their `texts`."""
    if not candidates or texts.shape[1] < 3:
        return
    before, rows = run(texts), table.data[candidates]
    others = torch.ones(before.shape[-1], dtype=torch.bool)
    others[[each for each in candidates if each < len(others)]] = False  # a tied head uses them too
    noise = torch.randn(len(candidates), table.shape[1], generator=_seeded())
    try:
        table.data[candidates] = rows + noise
        after = run(texts)
    finally:
        table.data[candidates] = rows
    gaps = (after - before)[..., others].abs().flatten(1).amax(1)
    within = CLOSE * float(before.abs().max())
    yield from (each for each, gap in zip(candidates, gaps, strict=True) if float(gap) <= within)


def _looking_ahead(
    run: Callable[[torch.Tensor], torch.Tensor], texts: torch.Tensor, candidates: list[int]
) -> Iterator[int]:
    """Yield the `candidates` whose own logits, which `run` returns, depend on the token after them.

    This happens in classes that hide all positions from a padding token, instead of hiding the
    token from them.
    """
    if not candidates or texts.shape[1] < 3:
        return
    changed = texts.clone()
    changed[:, 2] = texts[:, 0]
    before = run(texts)
    gaps = (run(changed) - before).abs().amax(1)
    within = CLOSE * float(before.abs().max())
    yield from (each for each, gap in zip(candidates, gaps, strict=True) if float(gap) > within)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)

"""Sample text of a model in training."""

from typing import Any

import jax
import numpy as np

from jaxgpt.config import Config
from jaxgpt.data.pairs import PairDataset
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.devices.distributed import is_multi_process, is_process_zero
from jaxgpt.generation.stream import generate
from jaxgpt.generation.translate import translate
from jaxgpt.model import GPT, assemble
from jaxgpt.pytree import Tree
from jaxgpt.training.job import Job

TEMPERATURE = 0.8
PAIRS = 3  # pairs of the validation split
Tokenizers = tuple[Tokenizer | None, Tokenizer | None]  # (of sources or texts, of targets)


def preview(job: Job, weights: Tree, tokenizers: Tokenizers, mesh: jax.sharding.Mesh) -> str:
    """Text of at most train.sample_tokens tokens, generated on one device if it has all weights.

    Empty in all processes but the first, if there is no tokenizer, and if the weights are sharded
    over several processes.
    """
    sharded = mesh.size > mesh.shape["data"]
    tokenizer, config = tokenizers[0], job.config
    if not config.train.sample_tokens or tokenizer is None:
        return ""
    if not is_process_zero() or (sharded and is_multi_process()):
        return ""
    if not sharded:
        weights = jax.tree.map(lambda leaf: leaf.addressable_data(0), weights)
    model: Any = assemble(config.architecture, weights)
    if isinstance(job.dataset, PairDataset):
        return _targets(config, model, job.dataset, tokenizer, tokenizers[1] or tokenizer)
    return _text(config, model, tokenizer)


def _text(config: Config, model: GPT, tokenizer: Tokenizer) -> str:
    allowed = tokenizer.decodable(config.model.vocab_size)
    tokens = config.train.sample_tokens
    pieces = generate(model, [tokenizer.start], tokens, TEMPERATURE, allowed=allowed)
    return tokenizer.decode(np.concatenate(list(pieces)))


def _targets(
    config: Config, model: Any, data: PairDataset, of_source: Tokenizer, of_target: Tokenizer
) -> str:
    """A line for each of the first pairs: its source, and the model's output for it."""
    sources = [data.val[i][0].tolist() for i in range(min(PAIRS, len(data.val)))]
    allowed = of_target.decodable(config.model.vocab_size)
    allowed |= np.arange(len(allowed)) == data.end
    written = translate(
        model,
        sources,
        start=data.start,
        end=data.end,
        allowed=allowed,
        max_new_tokens=min(config.train.sample_tokens, config.model.context_length),
    )
    return "\n".join(
        f"{of_source.decode(source)} -> {of_target.decode(ids)}"
        for source, ids in zip(sources, written, strict=True)
    )

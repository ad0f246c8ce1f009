"""Sample text of a model in training."""

import jax
import numpy as np

from jaxgpt.config import Config
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.devices.distributed import first, together
from jaxgpt.generation.stream import generate
from jaxgpt.model import assemble
from jaxgpt.pytree import Tree

TEMPERATURE = 0.8


def preview(
    config: Config, weights: Tree, tokenizer: Tokenizer | None, mesh: jax.sharding.Mesh
) -> str:
    """Text of train.sample_tokens tokens, generated on one device if each has all weights.

    It is empty in all processes but the first, without a tokenizer, and if the weights are sharded
    over several processes.
    """
    sharded = mesh.size > mesh.shape["data"]
    tokens = config.train.sample_tokens
    if config.encoder or not tokens or tokenizer is None or not first() or (sharded and together()):
        return ""
    if not sharded:
        weights = jax.tree.map(lambda leaf: leaf.addressable_data(0), weights)
    allowed = tokenizer.decodable(config.model.vocab_size)
    model = assemble(config.model, weights)
    pieces = generate(model, [tokenizer.start], tokens, TEMPERATURE, allowed=allowed)
    return tokenizer.decode(np.concatenate(list(pieces)))

"""Models from their parameters, a nested dict of arrays, and back."""

import functools
from typing import overload

import jax
from flax import nnx

from jaxgpt.config import ModelConfig
from jaxgpt.errors import require
from jaxgpt.model.gpt import GPT
from jaxgpt.model.int8 import Int8Kernel
from jaxgpt.model.seq2seq import Seq2Seq
from jaxgpt.pytree import Tree, require_same
from jaxgpt.seq2seq_config import Seq2SeqConfig


def params_of(model: nnx.Module) -> Tree:
    """The parameters of `model` as a nested dict of arrays."""
    params: Tree = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, Int8Kernel))
    require(
        not any(isinstance(leaf, Int8Kernel) for leaf in leaves),
        "The kernels of this model are in int8, which is for generation alone: use the model that "
        "was given to to_int8.",
    )
    return params


def build(config: ModelConfig | Seq2SeqConfig, seed: int = 0) -> GPT | Seq2Seq:
    """A model of `config` with random weights drawn from `seed`."""
    if isinstance(config, Seq2SeqConfig):
        return Seq2Seq(config.encoder, config.decoder, seed)
    return GPT(config, seed)


@functools.cache
def _blueprint(config: ModelConfig | Seq2SeqConfig) -> tuple[nnx.GraphDef, Tree]:
    """The module graph and the abstract parameters of a model."""
    graph, state = nnx.split(nnx.eval_shape(lambda: build(config)))
    return graph, nnx.to_pure_dict(state)


def abstract_params(config: ModelConfig | Seq2SeqConfig) -> Tree:
    """Shape and dtype of every parameter, without allocating any."""
    return _blueprint(config)[1]


@overload
def assemble(config: ModelConfig, params: Tree) -> GPT: ...
@overload
def assemble(config: Seq2SeqConfig, params: Tree) -> Seq2Seq: ...
@overload
def assemble(config: ModelConfig | Seq2SeqConfig, params: Tree) -> GPT | Seq2Seq: ...
def assemble(config: ModelConfig | Seq2SeqConfig, params: Tree) -> GPT | Seq2Seq:
    """The model with the parameters `params`; the inverse of `params_of`.

    NNX silently accepts wrong shapes, missing and extra names, so they are checked here.
    """
    graph, expected = _blueprint(config)
    require_same(expected, params, "This set of parameters")
    return nnx.merge(graph, params)

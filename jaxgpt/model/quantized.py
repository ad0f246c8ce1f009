"""Models with kernels in int8."""

import dataclasses
from typing import Literal, TypeVar

import jax
from flax import nnx

from jaxgpt.model.gpt import GPT
from jaxgpt.model.int8 import Int8Kernel
from jaxgpt.model.matrices import KERNELS
from jaxgpt.model.seq2seq import Seq2Seq

AnyModel = TypeVar("AnyModel", GPT, Seq2Seq)
WeightsChoice = Literal["stored", "int8"]
_of_head = jax.jit(Int8Kernel.of, static_argnums=1)
_of_blocks = jax.jit(jax.vmap(Int8Kernel.of, in_axes=(0, None)), static_argnums=1)


def with_weights(model: AnyModel, choice: WeightsChoice) -> AnyModel:
    """`model` as it is stored, or in int8."""
    return to_int8(model) if choice == "int8" else model


def to_int8(model: AnyModel) -> AnyModel:
    """A copy of `model` whose kernels are in int8, with a scale for each output.

    It is for generation: on a CPU a token takes about half the time, as a quarter of the bytes is
    read. Embeddings, biases and norms stay as they are; a tied head gets a kernel of its own. Such
    a model can be neither saved nor trained.
    """
    copy: AnyModel = nnx.merge(*nnx.split(model))
    decoder: GPT = copy.decoder if isinstance(copy, Seq2Seq) else copy
    head = decoder.head
    if head.spec.tied:
        head.kernel = nnx.Param(decoder.token_embedding.embedding[...].T)
        head.spec = dataclasses.replace(head.spec, tied=False)
    head.kernel = nnx.Param(_of_head(head.kernel[...], 1))
    for path, layer in nnx.iter_modules(copy):
        if isinstance(layer, nnx.LinearGeneral):
            inputs = len(KERNELS[str(path[-1])].inputs)
            layer.kernel = nnx.Param(_of_blocks(layer.kernel[...], inputs))
    return copy

"""Models with kernels in int8."""

import dataclasses
import functools
from typing import Literal, TypeVar

import jax
from flax import nnx

from jaxgpt.model.gpt import GPT
from jaxgpt.model.int8 import Int8Kernel
from jaxgpt.model.matrices import KERNELS
from jaxgpt.model.precision import exactly
from jaxgpt.model.seq2seq import Seq2Seq

AnyModel = TypeVar("AnyModel", GPT, Seq2Seq)
WeightsChoice = Literal["stored", "int8"]
Kernel = jax.Array | Int8Kernel


def with_weights(model: AnyModel, choice: WeightsChoice) -> AnyModel:
    """`model` as it is stored, or in int8."""
    return to_int8(model) if choice == "int8" else model


def to_int8(model: AnyModel) -> AnyModel:
    """A copy of `model` whose kernels are in int8, with a scale for each output.

    It is for generation: on a CPU the tokens of one text take about 0.6 of the time, as a quarter
    of the bytes is read. Embeddings, biases and norms stay as they are; a tied head gets a kernel
    of its own. Such a model can be neither saved nor trained. One that is in int8 already is
    copied.
    """
    copy: AnyModel = nnx.merge(*nnx.split(model))
    decoder: GPT = copy.decoder if isinstance(copy, Seq2Seq) else copy
    with exactly(model.dtype):
        if decoder.head.spec.tied:
            _untie(decoder)
        decoder.head.kernel = nnx.Param(_in_int8(decoder.head.kernel[...], 1))
        for path, layer in nnx.iter_modules(copy):
            if isinstance(layer, nnx.LinearGeneral):
                inputs = len(KERNELS[str(path[-1])].inputs)
                layer.kernel = nnx.Param(_in_int8(layer.kernel[...], inputs, True))
    return copy


def _untie(model: GPT) -> None:
    """Give the head of `model` a kernel of its own, equal to the token embedding."""
    head = model.head
    head.kernel = nnx.Param(model.token_embedding.embedding[...].T)
    head.spec = dataclasses.replace(head.spec, tied=False)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _in_int8(kernel: Kernel, inputs: int, stacked: bool = False) -> Int8Kernel:
    """`kernel` in int8; a `stacked` one has a leading axis of layers before its `inputs`."""
    if isinstance(kernel, Int8Kernel):
        return kernel
    of = functools.partial(Int8Kernel.of, inputs=inputs)
    return jax.vmap(of)(kernel) if stacked else of(kernel)

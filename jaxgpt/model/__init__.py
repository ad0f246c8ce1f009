"""The model: NNX modules in the order of the torch class, and the functions that run them."""

from jaxgpt.model.checks import check_mask, check_source, check_tokens
from jaxgpt.model.gpt import GPT, States
from jaxgpt.model.parameters import abstract_params, assemble, build, params_of
from jaxgpt.model.precision import cast, exactly
from jaxgpt.model.quantized import to_int8
from jaxgpt.model.seq2seq import Seq2Seq

__all__ = [
    "GPT",
    "Seq2Seq",
    "States",
    "abstract_params",
    "assemble",
    "build",
    "cast",
    "check_mask",
    "check_source",
    "check_tokens",
    "exactly",
    "params_of",
    "to_int8",
]

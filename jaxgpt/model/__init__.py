"""The model: NNX modules in the order of the torch class, and the functions that run them."""

from jaxgpt.model.gpt import (
    GPT,
    States,
    abstract_params,
    assemble,
    cast,
    check_tokens,
    exactly,
    params_of,
)

__all__ = [
    "GPT",
    "States",
    "abstract_params",
    "assemble",
    "cast",
    "check_tokens",
    "exactly",
    "params_of",
]

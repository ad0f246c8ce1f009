"""Floating-point operations of a training step.

In training each weight of a matrix is multiplied and added once forward and twice backward, and
attention computes scores and weighted sums over the whole context: 6 N + 12 L H k T operations a
token, as PaLM's appendix B counts them.
"""

import math
from typing import Any

from jaxgpt.config import ModelConfig


def per_token(config: ModelConfig) -> float:
    """Operations per token of a training step, without recomputation, with unmasked attention."""
    heads = config.num_heads * config.head_dim
    matrices = (
        config.num_blocks
        * config.model_dim
        * ((3 + config.attention_out) * heads + 2 * config.mlp_dim)
    )
    matrices += config.model_dim * config.vocab_size
    return 6 * matrices + 12 * config.num_blocks * heads * config.context_length


def of_program(jaxpr: Any, times: int = 1) -> int:
    """Operations of the matrix products in `jaxpr`, recomputation included, for `times` runs."""
    return sum(times * _of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return (
            2
            * math.prod(equation.outvars[0].aval.shape)
            * math.prod(left[axis] for axis in contracted)
        )
    times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
    inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
    return sum(of_program(each, times) for each in inner if hasattr(each, "eqns"))

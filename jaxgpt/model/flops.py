"""Floating-point operations of a training step.

Training takes 6 N + 12 L H k T operations per token, counted as in appendix B of PaLM: each matrix
weight takes one multiply-add forward and two backward, and attention computes scores and weighted
sums over the whole context.
"""

import math
from typing import Any

from jaxgpt.config import ModelConfig


def per_token(config: ModelConfig) -> float:
    """Operations per token of a training step, without recomputation, with unmasked attention.

    A layer with a window counts as attending to the full window.
    """
    heads, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    projections = (1 + config.attention_out) * heads + 2 * keys
    matrices = projections + (2 + config.mlp_gated) * config.mlp_dim
    matrices = config.model_dim * (config.num_blocks * matrices + config.vocab_size)
    seen = sum(
        min(window or config.context_length, config.context_length)
        for window in config.by_layer("window")
    )
    return 6 * matrices + 12 * heads * seen


def of_program(jaxpr: Any, times: int = 1) -> int:
    """Operations of the matrix products in `jaxpr`, recomputation included, for `times` runs.

    Where the program branches, as for layers with different windows, the longest branch counts.
    """
    return sum(times * _of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    if equation.primitive.name == "dot_general":
        (contracted, _), (batch, _) = equation.params["dimension_numbers"]
        left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
        if len(out) == len(batch):  # products of vectors, as in norms
            return 0
        return 2 * math.prod(out) * math.prod(left[axis] for axis in contracted)
    times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
    if equation.primitive.name == "cond":
        return max(of_program(branch.jaxpr) for branch in equation.params["branches"])
    inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
    return sum(of_program(each, times) for each in inner if hasattr(each, "eqns"))

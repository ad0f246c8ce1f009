"""Replaces constant tensors of a checkpoint, such as untrained ones, by other values.

A matrix of zeros hides what is computed before it, and a norm of ones hides its own place: two
functions that differ can agree on such weights, and diverge as soon as they are trained.
"""

import copy
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from jaxgpt.model import assemble, params_of
from jaxgpt.pytree import flatten, unflatten
from jaxgpt.storage import model_directory

from ..files import checkpoints
from ..loaded import Inspected
from ..rows import whole
from .example import Example

NOISE = 0.1  # standard deviation of the values that replace constant ones


@dataclass(frozen=True)
class Pair:
    """A torch module and a jaxgpt model with the same weights."""

    module: torch.nn.Module
    model: Any  # a GPT or a Seq2Seq
    example: Example  # the input of both


def with_random_constants(pair: Pair, file: Inspected, names: Mapping[str, str]) -> Pair | None:
    """Copies of `pair` in which noise is added to each constant tensor; None if there is none.

    `names` maps the names of the tensors in `file` to those in the module.
    """
    dialect, config = file.detected.dialect, pair.model.config
    weights = {n: file.source.tensors[n].read() for n in whole.names(dialect, config)}
    constant = [name for name, array in weights.items() if array.size > 1 and np.ptp(array) == 0]
    for name in constant:
        random = np.random.default_rng(zlib.crc32(name.encode()))
        noise = NOISE * random.standard_normal(weights[name].shape)
        weights[name] = (weights[name] + noise).astype(weights[name].dtype)
    # A file may have zeros in place of biases that the model lacks: they stay zeros.
    own = flatten(params_of(pair.model)).keys()
    moved = flatten(whole.to_flax(dialect, config, weights.__getitem__))
    params = unflatten({path: array for path, array in moved.items() if path in own})
    theirs = whole.to_torch(dialect, config, params)
    if all(np.array_equal(theirs[name], file.source.tensors[name].read()) for name in constant):
        return None
    module = copy.deepcopy(pair.module)
    tensors = {
        names[name]: checkpoints.to_tensor(theirs[name]).double()
        for name in constant
        if name in theirs
    }
    module.load_state_dict(tensors, strict=False)
    model = assemble(pair.model.config, model_directory.to_device(params))
    return Pair(module, model, pair.example)

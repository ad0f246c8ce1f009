"""A float64 copy of a jaxgpt model."""

from typing import Any

import jax
import numpy as np

from jaxgpt.model import assemble, params_of


def exact_model(model: Any) -> Any:
    """A float64 copy of `model` on the CPU."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float64), params_of(model))
    with jax.enable_x64(True):
        return assemble(model.config, jax.device_put(params, jax.devices("cpu")[0]))

"""The MLP of a block.

Shapes: B batch, T time, D model width, F MLP width.
"""

import functools
from collections.abc import Callable

import jax
from flax import nnx

from jaxgpt.model import spec
from jaxgpt.model.attention import INIT_STD

# By the names that ModelConfig.activation takes. The bridge has their spellings in config files in
# `convert.names.config_words`, and the choices to probe in `convert.probing.candidates`.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


class Mlp(nnx.Module):
    """Two linear layers with an activation between them, applied to each position."""

    def __init__(self, s: spec.Mlp, model_dim: int, out_init: nnx.Initializer, rngs: nnx.Rngs):
        linear = functools.partial(nnx.Linear, use_bias=s.bias, rngs=rngs)
        self.up = linear(model_dim, s.hidden, kernel_init=nnx.initializers.normal(INIT_STD))
        self.down = linear(s.hidden, model_dim, kernel_init=out_init)
        self.spec = s

    def __call__(self, x_btd: jax.Array) -> jax.Array:
        return self.down(ACTIVATIONS[self.spec.activation](self.up(x_btd)))

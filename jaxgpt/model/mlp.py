"""The MLP of a block.

Shapes: B batch, T time, D model width, F MLP width.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from jaxgpt.model import spec
from jaxgpt.model.attention import INIT_STD

# By the names that ModelConfig.activation takes, in `model_config.py`. The bridge has their
# spellings in config files in `convert.names.config_words`, and the choices to probe in
# `convert.probing.candidates`.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}


class Mlp(nnx.Module):
    """An activation between two linear layers, applied to each position.

    A gated MLP multiplies the activation by a second projection of its input; the kernel of both
    has an axis for the two, the gate first.
    """

    def __init__(self, s: spec.Mlp, model_dim: int, out_init: nnx.Initializer, rngs: nnx.Rngs):
        linear = functools.partial(nnx.LinearGeneral, use_bias=s.bias, rngs=rngs)
        init = nnx.initializers.normal(INIT_STD)
        if s.gated:
            self.gate_up = linear(model_dim, (2, s.hidden), kernel_init=init)
        else:
            self.up = linear(model_dim, s.hidden, kernel_init=init)
        self.down = linear(s.hidden, model_dim, kernel_init=out_init)
        self.spec = s

    def __call__(self, x_btd: jax.Array) -> jax.Array:
        activation = ACTIVATIONS[self.spec.activation]
        if not self.spec.gated:
            return self.down(activation(self.up(x_btd)))
        gate_btf, up_btf = (part[..., 0, :] for part in jnp.split(self.gate_up(x_btd), 2, axis=-2))
        return self.down(activation(gate_btf) * up_btf)

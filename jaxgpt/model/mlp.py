"""The MLP of a block, and its activations.

Another activation is one more function in ACTIVATIONS, under its name in `ModelConfig.activation`
(model_config.py). The bridge has its spellings in config files in `convert/names/config_words.py`,
the choices of `probe` in `convert/probing/candidates.py`, and the same functions in torch in
`convert/measuring/mlp.py`.

Shapes: B batch, T time, D model width, F MLP width.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxgpt.model import spec
from jaxgpt.model.initial import INIT_STD
from jaxgpt.model.linear import linear, product, product_gradients


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, by `erf` as in torch. `jax.nn.gelu` takes `erfc`, which a CPU computes more
    slowly."""
    return x * (0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5))


# By the values of ModelConfig.activation.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": gelu,
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
            return linear(self.down, activation(linear(self.up, x_btd)))
        gate_btf, up_btf = _gate_and_up(x_btd, self.gate_up.kernel[...])
        if self.gate_up.bias is not None:
            gate_btf, up_btf = gate_btf + self.gate_up.bias[0], up_btf + self.gate_up.bias[1]
        return linear(self.down, _gated(self.spec.activation, gate_btf, up_btf))


@jax.custom_vjp
def _gate_and_up(x_btd: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both projections, by one product: slices of the kernel would be copied for every token."""
    both_btgf = product(x_btd, kernel)
    return both_btgf[..., 0, :], both_btgf[..., 1, :]


def _gate_and_up_forward(x_btd: jax.Array, kernel: jax.Array) -> tuple[Any, Any]:
    return _gate_and_up(x_btd, kernel), (x_btd, kernel)


def _gate_and_up_backward(residuals: Any, gradients: Any) -> tuple[jax.Array, ...]:
    """Gradients by one product for each projection, which is faster than joining their
    gradients."""
    x_btd, kernel = residuals
    (x_by_gate, by_gate), (x_by_up, by_up) = (
        product_gradients(1, (x_btd, kernel[:, i]), gradients[i]) for i in (0, 1)
    )
    return x_by_gate + x_by_up, jnp.stack([by_gate, by_up], axis=1)


_gate_and_up.defvjp(_gate_and_up_forward, _gate_and_up_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gated(activation: str, gate: jax.Array, up: jax.Array) -> jax.Array:
    return _times(activation, gate, up)


def _times(activation: str, gate: jax.Array, up: jax.Array) -> jax.Array:
    return ACTIVATIONS[activation](gate) * up


def _forward(activation: str, gate: jax.Array, up: jax.Array) -> tuple[jax.Array, Any]:
    return _gated(activation, gate, up), (gate, up)


def _backward(
    activation: str, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, ...]:
    """Gradients computed from `gate` and `up` alone; autodiff would store intermediate results."""
    return jax.vjp(functools.partial(_times, activation), *residuals)[1](gradient)


_gated.defvjp(_forward, _backward)

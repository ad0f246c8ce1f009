"""Measures the MLPs of a class: their input, and the activation of the hidden layer."""

from collections.abc import Callable

import torch
from torch.nn import functional

from .norm import same
from .subject import Parted, Subject

AFTER_SCORES = 3  # how late in a block its MLP is measured
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "relu2": lambda x: functional.relu(x) ** 2,
}


def mlp_input(s: Subject, layer: int) -> torch.Tensor:
    path = "mlp/gate_up" if s.config.mlp_gated else "mlp/up"
    z = s.gets(path, layer, s.config.model_dim)
    if z is None:
        raise Parted(s.block(layer), "the input of its MLP cannot be seen")
    return z


def hidden_layer(s: Subject, activation: str, z: torch.Tensor, layer: int) -> torch.Tensor:
    act = ACTIVATIONS[activation]
    if not s.config.mlp_gated:
        return act(s.linear("blocks/mlp/up", layer, z))
    gate, up = s.linear("blocks/mlp/gate_up", layer, z).unbind(-2)
    return act(gate) * up


def activation_of(s: Subject, z: torch.Tensor) -> str:
    hidden = s.gets("mlp/down", 0, s.config.mlp_dim)
    if hidden is None:
        raise Parted(s.block(0), "the hidden layer of its MLP cannot be seen")
    for name in ACTIVATIONS:
        if same(hidden_layer(s, name, z, 0), hidden):
            return name
    raise Parted(s.block(0), "no known activation gives the hidden layer of its MLP", AFTER_SCORES)

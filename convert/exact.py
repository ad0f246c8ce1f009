"""Both models in float64 on the CPU, how far two quantities are apart, and training side by side. Knows no file."""

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from convert import bridge
from convert.rows import Dialect
from jaxgpt.config import ModelConfig
from jaxgpt.model import GPT, assemble, params_of
from jaxgpt.tree import Tree

TOLERANCE = 1e-10  # of the largest value in the same column; the frameworks' rounding stays below a hundredth of it


@dataclass(frozen=True)
class Difference:
    """One quantity seen from both sides."""

    name: str
    max: float
    mean: float
    scale: float  # the largest absolute value on torch's side
    relative: float  # of its own column: one huge value must not excuse the others

    @property
    def same(self) -> bool:
        return self.relative <= TOLERANCE  # written so that NaN is a difference

    @staticmethod
    def of(name: str, theirs: np.ndarray, ours: np.ndarray) -> "Difference":
        gap, size = np.abs(theirs - ours), np.abs(theirs)
        columns = size.reshape(-1, size.shape[-1] if size.ndim else 1).max(axis=0)
        usual = np.median(columns[columns > 0]) if (columns > 0).any() else np.float64(1e-300)
        relative = (gap / np.maximum(columns.reshape(size.shape[-1:]), usual)).max()
        return Difference(name, float(gap.max()), float(gap.mean()), float(size.max()), float(relative))


def exact_module(module: torch.nn.Module) -> torch.nn.Module:
    return copy.deepcopy(module).to("cpu", torch.float64).eval()


def exact_model(model: GPT) -> GPT:
    params = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float64), params_of(model))
    with jax.enable_x64(True):
        return assemble(model.config, jax.device_put(params, jax.devices("cpu")[0]))


def compare_training(
    module: torch.nn.Module, model: GPT, tokens: np.ndarray, dialect: Dialect, steps: int, decay: float = 0.01
) -> list[Difference]:
    """Every gradient of the mean cross-entropy, and every parameter after so many AdamW steps with torch's defaults."""
    module, model = exact_module(module), exact_model(model)
    their_loss, their_gradients = _torch_training(module, tokens, steps, decay)
    our_loss, our_gradients, params = flax_training(model, tokens, steps, decay)

    def named(tree: Tree) -> Mapping[str, np.ndarray]:
        return bridge.to_torch(dialect, model.config, tree)

    gradients, stepped = named(our_gradients), named(params)
    after = {name: value.detach().numpy() for name, value in module.named_parameters()}
    return [
        Difference.of("loss", np.asarray(their_loss), np.asarray(our_loss)),
        *(Difference.of(f"gradient of {name}", value, gradients[name]) for name, value in their_gradients.items()),
        *(Difference.of(f"{name} after {steps} steps", value, stepped[name]) for name, value in after.items()),
    ]


def _torch_training(
    module: torch.nn.Module, tokens: np.ndarray, steps: int, decay: float
) -> tuple[float, dict[str, np.ndarray]]:
    """The first loss and its gradients; the module is left as it is after the last step."""
    ids = torch.from_numpy(tokens.astype(np.int64))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=decay)
    first: tuple[float, dict[str, np.ndarray]] | None = None
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        first = first or (loss.item(), {name: _gradient(value) for name, value in module.named_parameters()})
        optimizer.step()
    assert first is not None
    return first


def _gradient(parameter: torch.nn.Parameter) -> np.ndarray:
    assert parameter.grad is not None
    return parameter.grad.numpy().copy()


def flax_training(model: GPT, tokens: np.ndarray, steps: int, decay: float) -> tuple[float, Tree, Tree]:
    optimizer = optax.adamw(1e-3, weight_decay=decay)
    with jax.enable_x64(True):
        ids = jnp.asarray(tokens, jnp.int32)
        params = params_of(model)
        state = optimizer.init(params)
        update = jax.jit(optimizer.update)
        first = _value_and_grad(params, model.config, ids)
        for _ in range(steps):
            updates, state = update(_value_and_grad(params, model.config, ids)[1], state, params)
            params = optax.apply_updates(params, updates)
    return float(first[0]), first[1], params


@functools.partial(jax.jit, static_argnums=1)
@jax.value_and_grad
def _value_and_grad(params: Tree, config: ModelConfig, ids: jax.Array) -> jax.Array:
    logits = assemble(config, params).logits(ids[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]).mean()

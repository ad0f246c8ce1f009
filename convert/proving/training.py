"""Trains both models side by side in float64: the loss, each gradient, each parameter."""

import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
import torch

from jaxgpt.errors import UserError
from jaxgpt.model import assemble, params_of
from jaxgpt.pytree import Tree, flatten, unflatten
from jaxgpt.seq2seq_config import AnyConfig

from ..foreign.float64 import exact_module, in_float64
from ..foreign.forward import logits_of
from ..rows import whole
from ..rows.pair import AnyDialect
from .difference import Difference
from .exact_model import exact_model
from .example import Example, logits_of_model
from .tolerances import GRADIENT_FLOOR

RATE = 1e-3  # the learning rate, and the floor for parameters, as no step is larger


@dataclass(frozen=True)
class Training:
    """The differences of two models that were trained for `steps` steps on the same batch."""

    steps: int
    loss: Difference  # before the first step
    gradients: list[Difference]  # of the first step, by parameter
    parameters: list[Difference]  # after the last step

    @property
    def rows(self) -> list[Difference]:
        """All differences, each with a descriptive name."""
        return [
            self.loss,
            *(item.named(f"gradient of {item.name}") for item in self.gradients),
            *(item.named(f"{item.name} after {self.steps} steps") for item in self.parameters),
        ]

    @property
    def first_difference(self) -> str | None:
        return next((row.name for row in self.rows if not row.same), None)


def compare_training(
    module: torch.nn.Module,
    model: Any,
    example: Example | np.ndarray,
    dialect: AnyDialect,
    steps: int,
    decay: float = 0.01,
) -> Training:
    """Compare the loss, each gradient, and each parameter after `steps` AdamW steps.

    The loss is the mean cross-entropy; AdamW has torch's defaults, but for the learning rate.
    """
    if shared := whole.repeated(dialect, model.config):
        raise UserError(
            f"The class trains {shared[0]} as one tensor, and the model each of its copies on its "
            "own, so that their steps differ. Compare them without training: leave out "
            "--train-steps."
        )
    example = Example.of(example)
    example = example._replace(tokens=without_padding(example.tokens, module))
    if example.source is not None:
        example = example._replace(source=without_padding(example.source, module))
    module, model = exact_module(example.given_to(module)), exact_model(model)
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=decay)
    their_loss, their_gradients = torch_training(module, example.tokens, steps, optimizer)
    trained = list(their_gradients)
    frozen = _frozen(model.config, dialect, module, trained)
    our_loss, our_gradients, params = flax_training(model, example, steps, decay, frozen)
    after = {name: value.detach().numpy() for name, value in module.named_parameters()}
    largest = [np.abs(value).max() for value in their_gradients.values()]
    floor = GRADIENT_FLOOR * float(np.median(largest))
    return Training(
        steps,
        Difference.of("loss", np.asarray(their_loss), np.asarray(our_loss)),
        [
            Difference.of(name, their_gradients[name], ours, floor)
            for name, ours in _by_torch_name(our_gradients, model.config, dialect, trained)
        ],
        [
            Difference.of(name, after[name], ours, RATE)
            for name, ours in _by_torch_name(params, model.config, dialect, trained)
        ],
    )


def _frozen(
    config: AnyConfig, dialect: AnyDialect, module: torch.nn.Module, trained: Collection[str]
) -> set[str]:
    """The Flax paths whose tensors `module` has but does not train, such as buffers."""
    resting = module.state_dict().keys() - {*trained}

    def among(names: Collection[str], weight: str) -> bool:
        return any(f".{name}".endswith(f".{weight}") for name in names)

    weights = list(whole.weights(dialect, config))
    moving = {weight.flax for weight in weights if not among(resting, weight.torch)}
    return {weight.flax for weight in weights} - moving


def _by_torch_name(
    tree: Tree, config: AnyConfig, dialect: AnyDialect, names: list[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield those of `names` that `tree` has, with its arrays; a name may have a prefix."""
    ours = whole.to_torch(dialect, config, tree)
    for name in names:
        for suffix, array in ours.items():
            if f".{name}".endswith(f".{suffix}"):
                yield name, array
                break


def without_padding(tokens: np.ndarray, module: torch.nn.Module) -> np.ndarray:
    """Replace each padding_idx in `tokens`: torch does not train that row of an embedding."""
    for part in module.modules():
        if isinstance(part, torch.nn.Embedding) and part.padding_idx is not None:
            tokens = np.where(
                tokens == part.padding_idx, (part.padding_idx + 1) % part.num_embeddings, tokens
            )
    return tokens


def torch_training(
    module: torch.nn.Module, tokens: np.ndarray, steps: int, optimizer: torch.optim.Optimizer
) -> tuple[float, dict[str, np.ndarray]]:
    """Train `module` for `steps` steps; return the first loss and its gradients."""
    ids = torch.from_numpy(tokens.astype(np.int64))
    first: tuple[float, dict[str, np.ndarray]] | None = None
    for _ in range(steps):
        optimizer.zero_grad()
        with in_float64():
            logits = logits_of(module, ids[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()
        first = first or (loss.item(), _gradients(module))
        optimizer.step()
    assert first is not None
    return first


def _gradients(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """Gradients of the parameters that have one; torch skips the others too."""
    gradients = ((name, value.grad) for name, value in module.named_parameters())
    return {name: gradient.numpy().copy() for name, gradient in gradients if gradient is not None}


def flax_training(
    model: Any,
    example: Example | np.ndarray,
    steps: int,
    decay: float,
    frozen: Collection[str] = (),
) -> tuple[float, Tree, Tree]:
    """Train a copy of `model`; return the first loss, its gradients, and the last parameters.

    Those at the paths `frozen` keep their values.
    """
    optimizer = optax.adamw(RATE, weight_decay=decay)
    with jax.enable_x64(True):
        batch = Example.of(example).on_device()
        params = params_of(model)
        state = optimizer.init(params)
        update = jax.jit(optimizer.update)
        loss, first = _value_and_grad(params, model.config, batch)
        gradients = first
        for step in range(steps):
            if step:
                _, gradients = _value_and_grad(params, model.config, batch)
            updates, state = update(gradients, state, params)
            moved = flatten(optax.apply_updates(params, updates))
            kept = {path: value for path, value in flatten(params).items() if path in frozen}
            params = unflatten({**moved, **kept})
    return float(loss), first, params


@functools.partial(jax.jit, static_argnums=1)
@jax.value_and_grad
def _value_and_grad(params: Tree, config: AnyConfig, example: Example) -> jax.Array:
    logits = logits_of_model(assemble(config, params), example.inputs)
    following = example.tokens[:, 1:]
    return optax.softmax_cross_entropy_with_integer_labels(logits, following).mean()

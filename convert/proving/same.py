"""Asserts that a torch module and a JAX model compute the same: outputs, gradients, training."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optax
import torch
from numpy.typing import ArrayLike

from jaxgpt.errors import UserError, require
from jaxgpt.system.stages import PATIENCE, Stage, working

from ..foreign.float64 import exact_module, in_float64
from ..foreign.forward import logits_of
from .any_function import Function
from .correspondence import Correspondence, Names, Side, correspondence
from .difference import Difference, of_logits
from .example import Example
from .parity import agreement, compare
from .repairs import repair
from .sameness import Sameness
from .tolerances import GRADIENT_FLOOR
from .training import RATE, Training, torch_training, without_padding

DECAY = 0.01
RUNNING = "running torch and JAX in float64"
SINGLE = 1e-5  # a relative difference below it may be rounding in float32
# (the parameters of the torch module -> its optimiser, the one of the JAX parameters)
Optimizers = tuple[Callable[[Any], torch.optim.Optimizer], optax.GradientTransformation]


def assert_same(
    torch_module: torch.nn.Module,
    model: Any,
    tokens: ArrayLike,
    *,
    params: Any = None,
    names: Names | None = None,
    train_steps: int = 3,
    optimizers: Optimizers | None = None,
    source: ArrayLike | None = None,
    memory: ArrayLike | None = None,
) -> Sameness:
    """Assert that both models agree on the ids `tokens` (B, T), and return the differences.

    Both run in float64 on the CPU. With `params`, gradients and training are compared too.

    Args:
        torch_module: A module that returns logits (B, T, V).
        model: A model of jaxgpt; or, with `params`, any function of (params, tokens) that returns
            logits: plain JAX, or Linen, NNX and Equinox with an `apply` or `combine` around them.
        tokens: The ids.
        params: The pytree of parameters of that function.
        names: The correspondence of parameters: name in torch -> one or several paths in `params`,
            such as "blocks/0/attn/kernel". Others are matched by equal values, even if they are
            transposed, reshaped, stacked or split.
        train_steps: Number of optimiser steps to compare; 0 compares only the logits.
        optimizers: A function from torch's parameters to their optimiser, and the one of optax;
            AdamW with the same settings unless given.
        source: The ids (B, S) that an encoder-decoder reads.
        memory: The memory (B, S, D) that a decoder attends to.

    Raises:
        AssertionError: They differ; the message says where first.
        UserError: One of them does not run, or `names` has a name that does not exist.
    """
    others = (None if each is None else np.asarray(each) for each in (source, memory))
    example = Example(np.asarray(tokens), *others)
    if params is None:
        require(callable(model), f"The model is a {type(model).__name__}, which is not callable.")
        if not hasattr(model, "config"):
            raise UserError("params is missing: pass the pytree that the JAX function takes.")
        with working(RUNNING, after=PATIENCE):
            result = compare(torch_module, model, example)
        sameness = Sameness(result.logits, result.kl, result.top1)
    else:
        function = Function.of(model, params)
        with working(RUNNING, after=PATIENCE) as stage:
            alone = source is None and memory is None  # then axes are as in the JAX function
            module = torch_module if alone else example.given_to(torch_module)
            compared = Compared(module, function, example.tokens, stage)
            sameness = compared.sameness(names or {}, train_steps, optimizers)
    if sameness.first_difference is not None:
        raise AssertionError(str(sameness))
    return sameness


@dataclass(frozen=True)
class Compared:
    """A torch module and a JAX function, to be run on the ids `tokens` (B, T)."""

    module: torch.nn.Module
    function: Function
    tokens: np.ndarray
    stage: Stage  # to report progress to

    def sameness(self, names: Names, steps: int, optimizers: Optimizers | None) -> Sameness:
        """All differences, with the parameters matched by `names` and by their values."""
        self.stage("logits", 0)
        theirs, ours = self._logits(), self.function.logits(self.tokens)
        require(
            theirs.shape == ours.shape,
            f"The logits are {theirs.shape} in torch and {ours.shape} in the JAX function.",
        )
        logits = of_logits(theirs, ours)
        rows = [agreement(*pair) for pair in zip(theirs, ours, strict=True)]
        kl, top1 = (float(value) for value in np.mean(rows, axis=0))
        sameness = Sameness(logits, kl, top1, "JAX function", hint=self._hint(logits, ours))
        if not steps:
            return sameness
        require(self.tokens.shape[1] > 1, "Gradients need at least two tokens in a row.")
        matched, training = self._training(names, steps, optimizers or adamw())
        return dataclasses.replace(
            sameness,
            names=matched.names,
            only_torch=matched.only_torch,
            only_jax=matched.only_jax,
            training=training,
        )

    def _logits(self) -> np.ndarray:
        return _logits_of(exact_module(self.module), self.tokens)

    def _hint(self, logits: Difference, ours: np.ndarray) -> str:
        """A sentence on the cause of different logits, if a single change removes it."""
        if logits.same:
            return ""
        self.stage("looking for the cause of different logits", 0)
        exact = exact_module(self.module)
        change = repair(exact, lambda: of_logits(_logits_of(exact, self.tokens), ours).same)
        if change:
            return f"With {change} in torch, the two agree: look for it in the JAX function."
        if logits.relative < SINGLE:
            return (
                "That is as much as rounding in float32 makes: see whether something in either of "
                "them casts to it."
            )
        return ""

    def _training(
        self, names: Names, steps: int, optimizers: Optimizers
    ) -> tuple[Correspondence, Training]:
        """The parameters that correspond, and the differences of their training."""
        self.stage("gradients and training in torch", 0)
        exact = exact_module(self.module)
        tokens = without_padding(self.tokens, exact)
        before = {name: _host(value) for name, value in exact.named_parameters()}
        optimizer = optimizers[0](exact.parameters())
        their_loss, their_slopes = torch_training(exact, tokens, steps, optimizer)
        self.stage("gradients in JAX", 0)
        our_loss, our_slopes = self.function.gradients(tokens)
        arrays = self.function.arrays
        self.stage("matching the parameters", 0)
        matched = correspondence(Side(before, their_slopes), Side(arrays, our_slopes), names)
        after = {name: _host(value) for name, value in exact.named_parameters()}
        frozen = _frozen(matched, arrays, their_slopes)
        self.stage("training in JAX", 0)
        trained = self.function.trained(tokens, steps, optimizers[1], frozen)
        largest = [float(np.abs(value).max()) for value in their_slopes.values()]
        floor = GRADIENT_FLOOR * float(np.median(largest))
        loss = Difference.of("loss", np.asarray(their_loss), np.asarray(our_loss))
        gradients = _by_part(matched, their_slopes, our_slopes, floor)
        moved = {name: after[name] for name in their_slopes}
        sizes = [float(np.abs(value).max()) for value in moved.values()]
        # Adam divides by the gradient, so that even the rounding error of a zero gradient moves a
        # number.
        parameters = _by_part(matched, moved, trained, max(RATE, float(np.median(sizes))))
        return matched, Training(steps, loss, gradients, parameters)


def adamw() -> Optimizers:
    """AdamW of torch and of optax with the same settings."""
    return (
        lambda parameters: torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY),
        optax.adamw(RATE, weight_decay=DECAY),
    )


def _logits_of(module: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad(), in_float64():
        return _host(logits_of(module, torch.from_numpy(tokens.astype(np.int64))))


def _host(value: torch.Tensor) -> np.ndarray:
    array: np.ndarray = value.detach().numpy().copy()
    return array


def _frozen(
    matched: Correspondence, arrays: Mapping[str, np.ndarray], trained: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The numbers in JAX whose counterparts torch does not train."""
    frozen = {path: np.zeros(array.size, bool) for path, array in arrays.items()}
    for part in matched.parts:
        if part.torch not in trained:
            frozen[part.jax][part.in_jax] = True
    return {path: mask.reshape(arrays[path].shape) for path, mask in frozen.items()}


def _by_part(
    matched: Correspondence,
    theirs: Mapping[str, np.ndarray],
    ours: Mapping[str, np.ndarray],
    floor: float,
) -> list[Difference]:
    """The difference of each part that torch trains, named by both of its names."""
    return [
        Difference.of(
            f"{part.torch} ({part.jax})",
            theirs[part.torch].reshape(-1)[part.in_torch],
            ours[part.jax].reshape(-1)[part.in_jax],
            floor,
        )
        for part in matched.parts
        if part.torch in theirs
    ]

"""Proves that a torch module and a jaxgpt model compute the same function, or shows where they part.

Both run in float64 on the CPU, where the two frameworks differ by 1e-12 and a real difference by a million times that.
"""

import copy
import dataclasses
import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from numpy.typing import ArrayLike

from convert import bridge, carry, files
from convert.rows import FIELDS, Dialect
from jaxgpt import checkpoint
from jaxgpt.config import ModelConfig, UserError
from jaxgpt.model import GPT, assemble, check_tokens, params_of
from jaxgpt.tree import Tree

TOLERANCE = 1e-10  # of the largest value compared; the frameworks' rounding stays below a hundredth of it


@dataclass(frozen=True)
class Difference:
    """One quantity seen from both sides."""

    name: str
    max: float
    mean: float
    scale: float  # the largest absolute value on torch's side

    @property
    def same(self) -> bool:
        return self.max <= TOLERANCE * max(self.scale, 1e-300)  # written so that NaN is a difference

    @staticmethod
    def of(name: str, theirs: np.ndarray, ours: np.ndarray) -> "Difference":
        gap = np.abs(theirs - ours)
        return Difference(name, float(gap.max()), float(gap.mean()), float(np.abs(theirs).max()))


@dataclass(frozen=True)
class Page:
    """Everything that `verify` found."""

    stages: list[Difference]  # in the order of the computation; the last is the logits
    kl: float
    top1: float
    fields: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)  # sizes that differ: (torch, flax)
    training: list[Difference] = dataclasses.field(default_factory=list)  # each gradient, each parameter after N steps

    @property
    def first_difference(self) -> str | None:
        return next((item.name for item in [*self.stages, *self.training] if not item.same), None)

    @property
    def same(self) -> bool:
        return not self.fields and self.first_difference is None

    def as_dict(self) -> dict[str, Any]:
        return {
            "same": self.same,
            "first_difference": self.first_difference,
            "tolerance": TOLERANCE,
            **dataclasses.asdict(self),
        }


def assert_same(torch_module: torch.nn.Module, model: GPT, tokens: ArrayLike) -> None:
    """For test suites: raises AssertionError unless both give the same logits for these ids (B, T)."""
    page = compare(torch_module, model, np.asarray(tokens))
    if not page.same:
        logits = page.stages[-1]
        raise AssertionError(
            f"The torch module and the jaxgpt model differ: logits by up to {logits.max:.3g} (mean {logits.mean:.3g}, "
            f"largest logit {logits.scale:.3g}, tolerance {TOLERANCE:g} of it); KL {page.kl:.3g}, top-1 agreement "
            f"{page.top1:.2%}."
        )


def verify(file: str | Path, directory: str | Path, train_steps: int = 0, seed: int = 0) -> Page:
    """The class of FILE's dialect holding FILE, against the model in DIRECTORY."""
    found = carry.inspect(file)
    opened = checkpoint.ModelDirectory(directory)
    theirs = {field: getattr(found.detected.report.config, field) for field in FIELDS.values()}
    fields = {
        field: (value, getattr(opened.config, field))
        for field, value in theirs.items()
        if value != getattr(opened.config, field)
    }
    if fields:
        return Page([], float("nan"), 0.0, fields)
    dialect, config = found.detected.dialect, opened.config
    module = build_reference(dialect, found.detected.report.config, found.source)
    model = assemble(config, checkpoint.to_device(opened.params()))
    tokens = np.random.default_rng(seed).integers(0, config.vocab_size, (4, config.context_length + 1))
    page = compare(module, model, tokens[:, :-1], dialect)
    training = compare_training(module, model, tokens, dialect, train_steps) if train_steps else []
    return dataclasses.replace(page, training=training)


def build_reference(dialect: Dialect, config: ModelConfig, source: files.Checkpoint) -> torch.nn.Module:
    if not dialect.reference:
        raise UserError(f"{source.path}: there is no reference class for the dialect {dialect.name}.")
    module, cls = dialect.reference.split(":")
    sizes = (config.vocab_size, config.context_length, config.model_dim, config.num_blocks, config.num_heads)
    reference = getattr(importlib.import_module(module), cls)(*sizes)
    state = {name: files.to_tensor(tensor.read()).double() for name, tensor in source.tensors.items()}
    try:
        reference.double().load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UserError(
            f"{source.path} does not load into {dialect.reference}: {' '.join(str(error).split())}"
        ) from None
    return reference


def compare(module: torch.nn.Module, model: GPT, tokens: np.ndarray, dialect: Dialect | None = None) -> Page:
    """Logits, and block by block where a dialect says which modules the blocks are."""
    check_tokens(tokens, model.config)
    theirs = _torch_stages(_exact(module), tokens, dialect, model.config.num_blocks)
    ours = _flax_stages(_exact_model(model), tokens)
    stages = [Difference.of(name, value, ours[name]) for name, value in theirs.items()]
    p, q = _log_softmax(theirs["logits"]), _log_softmax(ours["logits"])
    kl = float(np.mean(np.sum(np.exp(p) * (p - q), axis=-1)))
    top1 = float(np.mean(p.argmax(-1) == q.argmax(-1)))
    return Page(stages, kl, top1)


def _exact(module: torch.nn.Module) -> torch.nn.Module:
    return copy.deepcopy(module).to("cpu", torch.float64).eval()


def _exact_model(model: GPT) -> GPT:
    params = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float64), params_of(model))
    with jax.default_device(jax.devices("cpu")[0]):
        return assemble(model.config, checkpoint.to_device(params))


def _torch_stages(
    module: torch.nn.Module, tokens: np.ndarray, dialect: Dialect | None, num_blocks: int
) -> dict[str, np.ndarray]:
    stages: dict[str, np.ndarray] = {}
    blocks = [module.get_submodule(_block_name(dialect, layer)) for layer in range(num_blocks)] if dialect else []
    for layer, block in enumerate(blocks):
        if layer == 0:
            block.register_forward_pre_hook(lambda _, x: stages.update(embedding=x[0].numpy()))
        block.register_forward_hook(lambda _, __, y, name=f"block {layer}": stages.update({name: y.numpy()}))
    with torch.no_grad():
        stages["logits"] = module(torch.from_numpy(tokens.astype(np.int64))).numpy()
    return stages


def _block_name(dialect: Dialect, layer: int) -> str:
    """The module of a block, as the names of its tensors begin."""
    name = next(view.name for _, view in dialect.views if "{layer}" in view.name)
    return name.partition("{layer}")[0] + str(layer)


def _flax_stages(model: GPT, tokens: np.ndarray) -> dict[str, np.ndarray]:
    with jax.enable_x64(True):
        states = jax.jit(lambda model, ids: model.states(ids))(model, jnp.asarray(tokens, jnp.int32))
    blocks = {f"block {layer}": np.asarray(x) for layer, x in enumerate(states.blocks)}
    return {"embedding": np.asarray(states.embedding), **blocks, "logits": np.asarray(states.logits)}


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def compare_training(
    module: torch.nn.Module, model: GPT, tokens: np.ndarray, dialect: Dialect, steps: int, decay: float = 0.01
) -> list[Difference]:
    """Every gradient of the mean cross-entropy, and every parameter after so many AdamW steps with torch's defaults."""
    module, model = _exact(module), _exact_model(model)
    their_loss, their_gradients = _torch_training(module, tokens, steps, decay)
    our_loss, our_gradients, params = _flax_training(model, tokens, steps, decay)

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


def _flax_training(model: GPT, tokens: np.ndarray, steps: int, decay: float) -> tuple[float, Tree, Tree]:
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

"""Proves that a torch module and a jaxgpt model compute the same function, or shows where they part.

Both run in float64 on the CPU, where the two frameworks differ by 1e-12 and a real difference by a million times that.
"""

import dataclasses
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpy.typing import ArrayLike

from convert import bridge, carry, files
from convert.exact import TOLERANCE, Difference, compare_training, exact_model, exact_module
from convert.rows import FIELDS, Dialect
from jaxgpt import checkpoint
from jaxgpt.config import ModelConfig, UserError
from jaxgpt.model import GPT, assemble, check_tokens


@dataclass(frozen=True)
class Page:
    """Everything that `verify` found."""

    stages: list[Difference]  # in the order of the computation; the last is the logits
    kl: float
    top1: float
    fields: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)  # sizes that differ: (torch, flax)
    weights: list[str] = dataclasses.field(default_factory=list)  # tensors that are not the same numbers
    training: list[Difference] = dataclasses.field(default_factory=list)  # each gradient, each parameter after N steps
    assumed: dict[str, Any] = dataclasses.field(default_factory=dict)  # what the file cannot say of its class

    @property
    def first_difference(self) -> str | None:
        computed = (item.name for item in [*self.stages, *self.training] if not item.same)
        return next(computed, self.weights[0] if self.weights else None)

    @property
    def tolerance(self) -> float:
        return TOLERANCE

    @property
    def same(self) -> bool:
        return not self.fields and self.first_difference is None

    def as_dict(self) -> dict[str, Any]:
        return {
            "same": self.same,
            "first_difference": self.first_difference,
            "tolerance": self.tolerance,
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
    """The class of FILE's dialect holding FILE, against the model in DIRECTORY; the numbers alone where no class is at
    hand."""
    opened = checkpoint.ModelDirectory(directory)
    found = _as_it_was_read(file, opened)
    theirs = {field: getattr(found.detected.report.config, field) for field in FIELDS.values()}
    fields = {
        field: (value, getattr(opened.config, field))
        for field, value in theirs.items()
        if value != getattr(opened.config, field)
    }
    if fields:
        return Page([], float("nan"), 0.0, fields)
    dialect, config = found.detected.dialect, opened.config
    # Random tokens do not touch every row of an embedding, so the numbers themselves are compared as well.
    ours = bridge.to_torch_lazily(dialect, config, set(opened.paths), opened.read)
    tensors = found.source.tensors
    unequal = [name for name, value in ours.items() if not np.array_equal(tensors[name].read(), value)]
    assumed = found.detected.report.assumed
    if not dialect.reference:
        return Page([], float("nan"), float("nan"), weights=unequal, assumed=assumed)
    module = build_reference(dialect, found.detected.report.config, found.source)
    model = assemble(config, checkpoint.to_device(opened.params()))
    tokens = np.random.default_rng(seed).integers(0, config.vocab_size, (4, config.context_length + 1))
    page = compare(module, model, tokens[:, :-1], dialect)
    training = compare_training(module, model, tokens, dialect, train_steps) if train_steps else []
    return dataclasses.replace(page, training=training, weights=unequal, assumed=assumed)


def _as_it_was_read(file: str | Path, opened: checkpoint.ModelDirectory) -> carry.Inspected:
    """With what the directory was told; a file of another class may leave it to the directory how many heads there
    are."""
    source, fields = opened.about.get("source") or {}, opened.about.get("fields") or {}
    needed = ("num_heads", "head_dim", "context_length")
    given = {name: value for name, value in fields.get("given", {}).items() if name in needed}
    ignore_config = source.get("ignore_config", False)
    try:
        return carry.inspect(file, dialect=source.get("dialect"), ignore_config=ignore_config, **given)
    except UserError:
        return carry.inspect(file, num_heads=opened.config.num_heads)


def build_reference(dialect: Dialect, config: ModelConfig, source: files.Checkpoint) -> torch.nn.Module:
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
    theirs = _torch_stages(exact_module(module), tokens, dialect, model.config.num_blocks)
    ours = _flax_stages(exact_model(model), tokens)
    if theirs["logits"].shape != ours["logits"].shape:
        raise UserError(f"The logits are {theirs['logits'].shape} in torch and {ours['logits'].shape} in jaxgpt.")
    stages = [Difference.of(name, value, ours[name]) for name, value in theirs.items()]
    p, q = _log_softmax(theirs["logits"]), _log_softmax(ours["logits"])
    kl = max(0.0, float(np.mean(np.sum(np.exp(p) * (p - q), axis=-1))))  # rounding makes a zero negative
    top1 = float(np.mean(p.argmax(-1) == q.argmax(-1)))
    return Page(stages, kl, top1)


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
        logits = module(torch.from_numpy(tokens.astype(np.int64)))
    shape = tuple(getattr(logits, "shape", ()))
    if len(shape) != 3 or shape[:2] != tokens.shape:
        raise UserError(
            f"The torch module must return logits (batch, time, vocabulary) for ids {tokens.shape}, but returned "
            f"{shape or type(logits).__name__}; wrap it in a module that returns them alone."
        )
    stages["logits"] = logits.numpy()
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

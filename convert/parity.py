"""Proves that a torch module and a jaxgpt model compute the same function, or shows where they part.

Both run in float64 on the CPU, where the two frameworks differ by 1e-12 and a real difference by a million times that.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpy.typing import ArrayLike

from convert import bridge, carry, theirs
from convert.answers import Answers
from convert.detect import Detected
from convert.exact import TOLERANCE, Difference, compare_training, exact_model, exact_module, in_float64, logits_of
from convert.rows import FIELDS, Dialect
from convert.said import as_written
from jaxgpt import checkpoint
from jaxgpt.config import ModelConfig, UserError
from jaxgpt.model import GPT, assemble, check_tokens


@dataclass(frozen=True)
class Page:
    """Everything that `verify` found."""

    stages: list[Difference] = field(default_factory=list)  # in the order of the computation; the last is the logits
    kl: float | None = None
    top1: float | None = None
    fields: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # sizes that differ: (torch, flax)
    weights: list[str] = field(default_factory=list)  # tensors that are not the same numbers
    training: list[Difference] = field(default_factory=list)  # each gradient, each parameter after N steps
    ran: str = ""  # the torch class, and how it was built; otherwise only numbers were compared
    hint: str = ""  # what would let one run
    proven: dict[str, Any] = field(default_factory=dict)  # what the file cannot say, and running its own class shows
    assumed: dict[str, Any] = field(default_factory=dict)  # what the file cannot say, and was not proven

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
        whole = {"same": self.same, "first_difference": self.first_difference, "tolerance": self.tolerance}
        return _finite({**whole, **dataclasses.asdict(self)})


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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


def verify(
    file: str | Path,
    directory: str | Path,
    train_steps: int = 0,
    seed: int = 0,
    torch_class: str = "",
    torch_args: Mapping[str, Any] | None = None,
) -> Page:
    """A torch class holding FILE, against the model in DIRECTORY: the one that somebody named, whose code is run, or
    that of FILE's dialect. The numbers alone where there is none."""
    opened = checkpoint.ModelDirectory(directory)
    found = _as_it_was_read(file, opened)
    config = opened.config
    sizes = {name: (getattr(found.detected.report.config, name), getattr(config, name)) for name in FIELDS.values()}
    different = {name: pair for name, pair in sizes.items() if pair[0] != pair[1]}
    if different:
        return Page(fields=different)
    dialect = found.detected.dialect
    # Random tokens do not touch every row of an embedding, so the numbers themselves are compared as well.
    ours = bridge.to_torch_lazily(dialect, config, set(opened.paths), opened.read)
    tensors = found.source.tensors
    unequal = [name for name, value in ours.items() if not np.array_equal(tensors[name].read(), value)]
    named = torch_class or dialect.reference
    if not torch_class and (hint := theirs.hindrance(named, found.parameters)):
        return Page(weights=unequal, hint=hint, assumed=found.detected.report.assumed)
    peer = _peer(found, opened, named, torch_args or {}, theirs.folders(named) if torch_class else [])
    model = assemble(config, checkpoint.to_device(opened.params()))
    tokens = _tokens(config, seed)
    page = compare(peer.module, model, tokens[:, :-1], dialect)
    training = compare_training(peer.module, model, tokens, dialect, train_steps) if train_steps else []
    page = dataclasses.replace(page, training=training, weights=unequal, ran=peer.about)
    return _judged(page, peer, opened, found.detected, bool(torch_class))


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


def _peer(
    found: carry.Inspected, opened: checkpoint.ModelDirectory, named: str, given: Mapping[str, Any], home: list[str]
) -> theirs.Theirs:
    source, detected = found.source, found.detected
    passed_over = (opened.about.get("source") or {}).get("ignore_config", False)
    beside = {} if passed_over else as_written({"the file": source.extras, "config.json": source.config})
    answers = Answers(detected.report.config, detected.report.read, beside, given)
    return theirs.build(named, answers, source, bridge.torch_names(detected.dialect, detected.fit.sizes), home)


def _judged(page: Page, peer: theirs.Theirs, opened: checkpoint.ModelDirectory, detected: Detected, own: bool) -> Page:
    """What the file cannot say is proven once its own class ran, unless that class was told, or no run shows it.
    Hugging Face's config names the class; otherwise that of a dialect is assumed itself."""
    kinds = detected.dialect.says.get("model_type", {})
    if not own and peer.answers.beside.get("model_type") not in kinds:
        return dataclasses.replace(page, assumed=detected.report.assumed)
    known = opened.about.get("fields") or {}
    unsure = [*known.get("given", {}), *known.get("assumed", {})] or [*detected.report.assumed]
    values = {name: getattr(opened.config, name) for name in unsure}
    proven = {
        name: value for name, value in values.items() if page.same and name not in {*peer.answers.fields, "dropout"}
    }
    left = {name: value for name, value in values.items() if name not in proven}
    return dataclasses.replace(page, proven=proven, assumed=left)


def _tokens(config: ModelConfig, seed: int) -> np.ndarray:
    """Of full length, in more than one row: a class may mix them up."""
    rows = 4 if config.context_length * config.vocab_size < 2**25 else 2
    return np.random.default_rng(seed).integers(0, config.vocab_size, (rows, config.context_length + 1))


def compare(module: torch.nn.Module, model: GPT, tokens: np.ndarray, dialect: Dialect | None = None) -> Page:
    """Logits, and block by block where a dialect says which modules the blocks are."""
    check_tokens(tokens, model.config)
    theirs = _torch_stages(exact_module(module), tokens, dialect)
    ours = _flax_stages(exact_model(model), tokens)
    if theirs["logits"].shape != ours["logits"].shape:
        raise UserError(f"The logits are {theirs['logits'].shape} in torch and {ours['logits'].shape} in jaxgpt.")
    logits = Difference.of("logits", theirs["logits"], ours["logits"])
    stages = [
        Difference.of(name, theirs[name], value)
        for name, value in ours.items()
        if name != "logits" and getattr(theirs.get(name), "shape", None) == value.shape
    ]
    # Where the logits are the same, a stage that is not is something else there: a sum before its norm, for instance.
    stages = [stage for stage in stages if stage.same or not logits.same]
    rows = [_agreement(*pair) for pair in zip(theirs["logits"], ours["logits"], strict=True)]
    kl, top1 = (float(value) for value in np.mean(rows, axis=0))
    return Page([*stages, logits], kl, top1)


def _torch_stages(module: torch.nn.Module, tokens: np.ndarray, dialect: Dialect | None) -> dict[str, np.ndarray]:
    stages: dict[str, np.ndarray] = {}

    def keep(name: str, value: Any) -> None:
        value = value[0] if isinstance(value, (tuple, list)) and value else value
        if isinstance(value, torch.Tensor):
            stages[name] = value.detach().numpy().copy()

    for layer, block in enumerate(_blocks(module, dialect) if dialect else []):
        if layer == 0:
            block.register_forward_pre_hook(
                lambda _, args, named: keep("embedding", args or tuple(named.values())), with_kwargs=True
            )
        block.register_forward_hook(lambda _, __, y, name=f"block {layer}": keep(name, y))
    with torch.no_grad(), in_float64():
        keep("logits", logits_of(module, torch.from_numpy(tokens.astype(np.int64))))
    return stages


def _blocks(module: torch.nn.Module, dialect: Dialect) -> list[torch.nn.Module]:
    """By the names of their tensors; [] where the class keeps its blocks elsewhere."""
    before = next(view.name for _, view in dialect.views if "{layer}" in view.name).partition("{layer}")[0]
    modules = {f".{name}": part for name, part in module.named_modules()}
    first = next((name for name in modules if name.endswith(f".{before}0")), "")
    found = (modules.get(f"{first[:-1]}{layer}") for layer in range(len(modules)))
    return [part for part in found if part is not None] if first else []


def _flax_stages(model: GPT, tokens: np.ndarray) -> dict[str, np.ndarray]:
    with jax.enable_x64(True):
        states = jax.jit(lambda model, ids: model.states(ids))(model, jnp.asarray(tokens, jnp.int32))
    blocks = {f"block {layer}": np.asarray(x) for layer, x in enumerate(states.blocks)}
    return {"embedding": np.asarray(states.embedding), **blocks, "logits": np.asarray(states.logits)}


def _agreement(theirs: np.ndarray, ours: np.ndarray) -> tuple[float, float]:
    """KL divergence and how often the likeliest token is the same; of one row, for logits are large."""
    p, q = _log_softmax(theirs), _log_softmax(ours)
    kl = np.mean(np.sum(np.exp(p) * (p - q), axis=-1))
    return np.maximum(0.0, kl), np.mean(p.argmax(-1) == q.argmax(-1))  # rounding makes a zero negative


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

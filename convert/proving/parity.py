"""Proves that a torch module and a jaxgpt model compute the same, or shows where they differ.

Both run in float64 on the CPU, where the two frameworks differ by 1e-12, and different functions
by a million times that.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpy.typing import ArrayLike

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.model import GPT, assemble, check_tokens
from jaxgpt.storage import model_directory

from .. import api
from ..detect.refusals import Asked
from ..files import checkpoints
from ..names.config_words import as_written
from ..rows import fit, move
from ..rows.dialect import FIELDS, Dialect
from . import alternatives
from . import foreign_module as theirs
from .constructor_args import MEANING, Answers
from .float64 import (
    TOLERANCE,
    Difference,
    compare_training,
    exact_model,
    exact_module,
    in_float64,
    logits_of,
)
from .verdict import Page, Standing


def assert_same(torch_module: torch.nn.Module, model: GPT, tokens: ArrayLike) -> None:
    """Raise AssertionError unless both models give the same logits for the ids `tokens` (B, T)."""
    page = compare(torch_module, model, np.asarray(tokens))
    if not page.same:
        logits = page.stages[-1]
        raise AssertionError(
            f"The torch module and the jaxgpt model differ: logits by up to {logits.max:.3g} "
            f"(mean {logits.mean:.3g}, largest logit {logits.scale:.3g}, tolerance {TOLERANCE:g} "
            f"of it); KL {page.kl:.3g}, top-1 agreement {page.top1:.2%}."
        )


def verify(
    file: str | Path,
    directory: str | Path,
    train_steps: int = 0,
    *,
    dialect: str | None = None,
    torch_class: str = "",
    torch_args: Mapping[str, Any] | None = None,
) -> Page:
    """Compare a torch class with the weights of `file` with the model in `directory`.

    The class is `torch_class`, whose code is run because the user named it, or else that of the
    file's dialect. Where there is neither, only the tensors are compared.
    """
    opened = model_directory.ModelDirectory(directory)
    inspected = _read_again(file, opened, dialect)
    standing = Standing.of(opened, inspected.detected.report)
    if different := _different_sizes(inspected, opened.config):
        return Page(fields=different, given=standing.given, assumed=standing.assumed)
    unequal = _unequal_weights(inspected, opened)
    named = torch_class or inspected.detected.dialect.reference
    if not torch_class and (hint := theirs.hindrance(named, inspected.parameters)):
        return Page(weights=unequal, hint=hint, given=standing.given, assumed=standing.assumed)
    home = theirs.folders(named) if torch_class else []
    peer = _peer(inspected, opened, named, torch_args or {}, home)
    model = assemble(opened.config, model_directory.to_device(opened.params()))
    page = _compared(peer.module, model, inspected.detected.dialect, train_steps)
    page = dataclasses.replace(page, weights=unequal, ran=peer.about)
    certain = bool(torch_class) or _names_its_class(inspected, peer)
    set_by_user = {MEANING.get(word.lower(), word) for word in peer.answers.given}
    # An argument that the file itself records counts as read, not as passed by us.
    passed_by_us = peer.answers.fields - inspected.detected.report.read.keys()
    page = page.judged(standing, certain, passed_by_us, set_by_user)
    if page.verdict == "differs":
        return _advised(page, inspected, opened, peer, Path(directory), bool(torch_class))
    if certain:
        page = dataclasses.replace(page, inherited=_inherited(inspected, opened, standing))
    return page


def _read_again(
    file: str | Path,
    opened: model_directory.ModelDirectory,
    dialect: str | None,
) -> api.Inspected:
    """Inspect `file` with the dialect recorded in the directory, or else with one that fits it."""
    source, recorded = checkpoints.read(file), opened.about.get("source") or {}
    passed_over = recorded.get("ignore_config", False)
    if dialect:
        return _answered(source, opened.config, dialect, passed_over)
    try:
        return _answered(source, opened.config, recorded.get("dialect"), passed_over)
    except UserError:
        return _answered(source, opened.config, None, False)


def _answered(
    source: checkpoints.Checkpoint, config: ModelConfig, dialect: str | None, ignore_config: bool
) -> api.Inspected:
    """Inspect `source`, taking fields that it leaves open from the directory's `config`.

    An example is the number of heads in a fused matrix.
    """
    answers: dict[str, Any] = {}
    while True:
        try:
            return api.inspect(source, dialect=dialect, ignore_config=ignore_config, **answers)
        except Asked as asked:
            if asked.field in answers:
                raise
            answers[asked.field] = getattr(config, asked.field)


def _different_sizes(inspected: api.Inspected, config: ModelConfig) -> dict[str, tuple[Any, Any]]:
    read = inspected.detected.report.config
    sizes = {name: (getattr(read, name), getattr(config, name)) for name in FIELDS.values()}
    return {name: pair for name, pair in sizes.items() if pair[0] != pair[1]}


def _unequal_weights(inspected: api.Inspected, opened: model_directory.ModelDirectory) -> list[str]:
    """Names of tensors whose values differ.

    Logits cannot show this: no batch of tokens uses all rows of an embedding.
    """
    dialect, tensors = inspected.detected.dialect, inspected.source.tensors
    ours = move.to_torch_lazily(dialect, opened.config, set(opened.paths), opened.read)
    return [name for name, value in ours.items() if not np.array_equal(tensors[name].read(), value)]


def _peer(
    inspected: api.Inspected,
    opened: model_directory.ModelDirectory,
    named: str,
    torch_args: Mapping[str, Any],
    home: list[str],
) -> theirs.Theirs:
    source, detected = inspected.source, inspected.detected
    passed_over = (opened.about.get("source") or {}).get("ignore_config", False)
    config_words = (
        {} if passed_over else as_written({"the file": source.extras, "config.json": source.config})
    )
    answers = Answers(detected.report.config, detected.report.read, config_words, torch_args)
    return theirs.build(
        named, answers, source, fit.torch_names(detected.dialect, detected.fit.sizes), home
    )


def _names_its_class(inspected: api.Inspected, peer: theirs.Theirs) -> bool:
    """Whether the file's own config names its class, as config.json of Hugging Face does."""
    kinds = inspected.detected.dialect.says.get("model_type", {})
    return peer.answers.beside.get("model_type") in kinds


def _inherited(
    inspected: api.Inspected,
    opened: model_directory.ModelDirectory,
    standing: Standing,
) -> dict[str, Any]:
    """Assumed fields of a model that was converted from a file of another class.

    Running this file's class proves nothing about those.
    """
    recorded = (opened.about.get("source") or {}).get("dialect")
    return standing.assumed if recorded not in (None, inspected.detected.dialect.name) else {}


def _compared(module: torch.nn.Module, model: GPT, dialect: Dialect, train_steps: int) -> Page:
    tokens = _tokens(model.config)
    page = compare(module, model, tokens[:, :-1], dialect)
    training = compare_training(module, model, tokens, dialect, train_steps) if train_steps else []
    return dataclasses.replace(page, training=training)


def _advised(
    page: Page,
    inspected: api.Inspected,
    opened: model_directory.ModelDirectory,
    peer: theirs.Theirs,
    directory: Path,
    own: bool,
) -> Page:
    """Add to the `page` of two models that differ what would make them agree.

    Other values of fields that the user set are tried only if the class is the user's `own` too.
    """
    if not own:
        hint = alternatives.other_class(page.ran, opened.config, inspected.detected.dialect)
        page = dataclasses.replace(page, hint=hint)
    if page.weights or page.stages[-1].same:
        return page
    model = assemble(opened.config, model_directory.to_device(opened.params()))
    fields = [*page.assumed, *(page.given if own else ())]
    agreement = alternatives.agreeing(peer.module, model, _tokens(opened.config)[:, :-1], fields)
    if agreement is None:
        return page
    fields_then = {**inspected.detected.report.given, **page.given, **agreement.fields}
    command = alternatives.command(inspected, opened, directory, fields_then)
    return dataclasses.replace(page, agreeing=dataclasses.replace(agreement, command=command))


def _tokens(config: ModelConfig) -> np.ndarray:
    """Random ids of full length, in more than one row, as a class may mix rows up."""
    rows = 4 if config.context_length * config.vocab_size < 2**25 else 2
    shape = rows, config.context_length + 1
    return np.random.default_rng(0).integers(0, config.vocab_size, shape)


def compare(
    module: torch.nn.Module, model: GPT, tokens: np.ndarray, dialect: Dialect | None = None
) -> Page:
    """Compare logits, and the output of each block that `dialect` can name."""
    check_tokens(tokens, model.config)
    theirs = _torch_stages(exact_module(module), tokens, dialect)
    ours = _flax_stages(exact_model(model), tokens)
    if theirs["logits"].shape != ours["logits"].shape:
        raise UserError(
            f"The logits are {theirs['logits'].shape} in torch and {ours['logits'].shape} in "
            "jaxgpt."
        )
    logits = Difference.of("logits", theirs["logits"], ours["logits"])
    stages = [
        Difference.of(name, theirs[name], value)
        for name, value in ours.items()
        if name != "logits" and getattr(theirs.get(name), "shape", None) == value.shape
    ]
    # If the logits agree, a stage that differs is another quantity in the torch class, such as a
    # sum before its norm.
    stages = [stage for stage in stages if stage.same or not logits.same]
    rows = [_agreement(*pair) for pair in zip(theirs["logits"], ours["logits"], strict=True)]
    kl, top1 = (float(value) for value in np.mean(rows, axis=0))
    return Page([*stages, logits], kl, top1)


def _torch_stages(
    module: torch.nn.Module, tokens: np.ndarray, dialect: Dialect | None
) -> dict[str, np.ndarray]:
    stages: dict[str, np.ndarray] = {}

    def keep(name: str, value: Any) -> None:
        value = value[0] if isinstance(value, (tuple, list)) and value else value
        if isinstance(value, torch.Tensor):
            stages[name] = value.detach().numpy().copy()

    for layer, block in enumerate(_blocks(module, dialect) if dialect else []):
        if layer == 0:
            block.register_forward_pre_hook(
                lambda _, args, named: keep("embedding", args or tuple(named.values())),
                with_kwargs=True,
            )
        block.register_forward_hook(lambda _, __, y, name=f"block {layer}": keep(name, y))
    with torch.no_grad(), in_float64():
        keep("logits", logits_of(module, torch.from_numpy(tokens.astype(np.int64))))
    return stages


def _blocks(module: torch.nn.Module, dialect: Dialect) -> list[torch.nn.Module]:
    """Find the blocks by the names of their tensors; [] where the class has other names."""
    before = next(view.name for _, view in dialect.views if "{layer}" in view.name).partition(
        "{layer}"
    )[0]
    modules = {f".{name}": part for name, part in module.named_modules()}
    first = next((name for name in modules if name.endswith(f".{before}0")), "")
    blocks = (modules.get(f"{first[:-1]}{layer}") for layer in range(len(modules)))
    return [part for part in blocks if part is not None] if first else []


def _flax_stages(model: GPT, tokens: np.ndarray) -> dict[str, np.ndarray]:
    with jax.enable_x64(True):
        states = jax.jit(lambda model, ids: model.states(ids))(
            model, jnp.asarray(tokens, jnp.int32)
        )
    blocks = {f"block {layer}": np.asarray(x) for layer, x in enumerate(states.blocks)}
    return {
        "embedding": np.asarray(states.embedding),
        **blocks,
        "logits": np.asarray(states.logits),
    }


def _agreement(theirs: np.ndarray, ours: np.ndarray) -> tuple[float, float]:
    """KL divergence and top-1 agreement of one row; one at a time, as logits are large."""
    p, q = _log_softmax(theirs), _log_softmax(ours)
    kl = np.mean(np.sum(np.exp(p) * (p - q), axis=-1))
    # Rounding can make a KL of zero negative.
    return np.maximum(0.0, kl), np.mean(p.argmax(-1) == q.argmax(-1))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

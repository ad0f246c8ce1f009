"""Proves that a checkpoint and a model directory hold the same function, or shows where they part.

The torch class of the checkpoint runs beside the Flax model, in float64.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.errors import UserError
from jaxgpt.model import GPT, assemble
from jaxgpt.storage.model_directory import ModelDirectory, to_device

from .. import api
from ..files import checkpoints
from ..foreign.constructor_args import MEANING, Answers
from ..foreign.imports import folders
from ..foreign.peer import Peer, build, hindrance
from ..names.config_words import as_written
from ..rows import fit, move
from ..rows.dialect import Dialect
from ..rows.fields import FIELDS
from . import alternatives
from .inspected_for import inspected_for
from .other_weights import Pair, with_random_constants
from .parity import compare, compare_prefix, tokens_for
from .training import compare_training
from .verdict import Page, Standing

CHOSEN = (
    "The class that ran was chosen by tensor names: if another one wrote the file, run that one "
    "with --torch."
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
    """Compare the class of `file` with the model in `directory`.

    The class is `torch_class`, whose code is run because the user named it, or else that of the
    file's dialect. Where there is neither, only the tensors are compared.
    """
    sides = Sides.read(file, directory, dialect)
    standing = Standing.of(sides.opened, sides.inspected.detected.report)
    page = Page(given=standing.given, assumed=standing.assumed)
    if different := sides.different_sizes():
        return dataclasses.replace(page, fields=different)
    page = dataclasses.replace(page, weights=sides.unequal_weights())
    named = torch_class or sides.inspected.detected.dialect.reference
    if not torch_class and (hint := hindrance(named, sides.inspected.parameters)):
        return dataclasses.replace(page, hint=hint)
    peer = sides.build(named, torch_args or {}, bool(torch_class))
    page = dataclasses.replace(page, ran=peer.about)
    page, pair = _compared(page, sides, peer, train_steps)
    page = _judged(page, sides, peer, bool(torch_class))
    if page.verdict == "differs":
        return _advised(page, sides, pair, Path(directory), peer if torch_class else None)
    return page


@dataclass(frozen=True)
class Sides:
    """A checkpoint and a model directory that may hold the same model."""

    inspected: api.Inspected
    opened: ModelDirectory

    @staticmethod
    def read(file: str | Path, directory: str | Path, dialect: str | None) -> "Sides":
        """Read `file` with `dialect`, or the one recorded in `directory`, or one that fits it."""
        opened, source = ModelDirectory(directory), checkpoints.read(file)
        recorded = opened.about.get("source") or {}
        ignore_config, config = recorded.get("ignore_config", False), opened.config
        if dialect:
            return Sides(inspected_for(source, config, dialect, ignore_config), opened)
        try:
            inspected = inspected_for(source, config, recorded.get("dialect"), ignore_config)
        except UserError:
            inspected = inspected_for(source, config, None, False)
        return Sides(inspected, opened)

    @property
    def origin(self) -> Mapping[str, Any]:
        """The directory's record of the file from which it was converted."""
        return self.opened.about.get("source") or {}

    @property
    def trained_here(self) -> bool:
        """Whether the model was first trained by us, so that files of it are our exports."""
        return "step" in self.opened.about and not self.origin

    def different_sizes(self) -> dict[str, tuple[Any, Any]]:
        """The sizes that differ, as (file, directory)."""
        read, ours = self.inspected.detected.report.config, self.opened.config
        sizes = {name: (getattr(read, name), getattr(ours, name)) for name in FIELDS.values()}
        return {name: pair for name, pair in sizes.items() if pair[0] != pair[1]}

    def unequal_weights(self) -> list[str]:
        """Names of the tensors whose values differ.

        Logits cannot show this: no batch of tokens uses all rows of an embedding. The file may have
        the rotary layout that its class usually has, or the one that the directory records.
        """
        dialect, config = self.inspected.detected.dialect, self.opened.config
        layouts = dict.fromkeys([dialect.layout, config.rotary_layout])
        dialects = [dataclasses.replace(dialect, layout=layout) for layout in layouts]
        return min(map(self._unequal_weights, dialects), key=len)

    def _unequal_weights(self, dialect: Dialect) -> list[str]:
        paths, theirs = set(self.opened.paths), self.inspected.source.tensors
        ours = move.to_torch_lazily(dialect, self.opened.config, paths, self.opened.read)
        return [
            name for name, value in ours.items() if not np.array_equal(theirs[name].read(), value)
        ]

    def model(self) -> GPT:
        return assemble(self.opened.config, to_device(self.opened.params()))

    def tokens(self) -> np.ndarray:
        """Token ids that include those that a config names, such as padding."""
        source = self.inspected.source
        words = {**source.extras, **(source.config or {})}
        named = [value for word, value in words.items() if str(word).endswith("token_id")]
        return tokens_for(self.opened.config, [id_ for id_ in named if isinstance(id_, int)])

    def build(self, named: str, torch_args: Mapping[str, Any], by_user: bool) -> Peer:
        """Build the class `named` with the weights of the file; `by_user` is whose choice it is."""
        source, detected = self.inspected.source, self.inspected.detected
        written = {} if self.origin.get("ignore_config") else as_written(source.configs)
        answers = Answers(detected.report.config, detected.report.read, written, torch_args)
        weights = fit.torch_names(detected.dialect, detected.fit.sizes)
        home = folders(named) if by_user else []
        return build(named, answers, source, weights, home)

    def names_its_class(self, peer: Peer) -> bool:
        """Whether the file's own config names the class of `peer`, as Hugging Face's do.

        A config with `auto_map` names code of its own, which has not run.
        """
        kinds = self.inspected.detected.dialect.says.get("model_type", {})
        known = peer.answers.beside.get("model_type") in kinds
        return known and not self.names_another_class(peer)

    def names_another_class(self, peer: Peer) -> bool:
        """Whether the file's own config names code or a class that is not that of `peer`."""
        config, class_name = self.inspected.source.config or {}, type(peer.module).__name__
        return "auto_map" in config or class_name not in config.get("architectures", [class_name])


def _compared(page: Page, sides: Sides, peer: Peer, train_steps: int) -> tuple[Page, Pair]:
    """The page with all comparisons, and the pair of models that was compared last."""
    pair, tokens = Pair(peer.module, sides.model()), sides.tokens()
    dialect = sides.inspected.detected.dialect
    result = compare(pair.module, pair.model, tokens[:, :-1], dialect)
    page = dataclasses.replace(page, stages=result.stages, kl=result.kl, top1=result.top1)
    if train_steps:
        training = compare_training(pair.module, pair.model, tokens, dialect, train_steps)
        page = dataclasses.replace(page, training=training)
    if not page.same:
        return page, pair
    page = dataclasses.replace(page, short_input=compare_prefix(pair.module, tokens[:, :-1]))
    if page.same and (other := with_random_constants(pair, sides.inspected, peer.names)):
        logits = compare(other.module, other.model, tokens[:, :-1]).logits
        logits = logits.named("logits, constants varied")
        return dataclasses.replace(page, random_weights=logits), other
    return page, pair


def _judged(page: Page, sides: Sides, peer: Peer, by_user: bool) -> Page:
    """The page with the fields that running the class has proven, and what remains in doubt.

    A class that was chosen by tensor names proves no field: it does what was assumed or given.
    """
    if not page.same:
        return page
    named = sides.names_its_class(peer)
    if not by_user and not named:
        if sides.names_another_class(peer):
            doubt = f"the class that wrote the file is {peer.about}, or computes the same"
            return dataclasses.replace(page, doubt=doubt)
        if page.assumed or sides.trained_here:
            return page
        return dataclasses.replace(page, hint=CHOSEN)
    if peer.answers.defaults and not named:
        page = _with_defaults(page, peer.answers.defaults)
    report, answers = sides.inspected.detected.report, peer.answers
    set_by_user = {MEANING.get(word.lower(), word) for word in answers.given}
    # An argument that the file itself records counts as read, not as passed by us.
    page = page.judged(answers.fields - report.read.keys(), set_by_user)
    if sides.origin.get("dialect") in (None, sides.inspected.detected.dialect.name):
        return page
    # Running the class of this file proves nothing about the one that the model came from.
    return dataclasses.replace(page, inherited=Standing.of(sides.opened, report).assumed)


def _with_defaults(page: Page, defaults: Mapping[str, Any]) -> Page:
    """The page in doubt: the class may have had other arguments than `defaults` in training."""
    listed = ", ".join(f"{word} = {value!r}" for word, value in defaults.items())
    doubt = f"the class was built with {listed}, its defaults, for training too"
    return dataclasses.replace(page, doubt=doubt, defaults=dict(defaults))


def _advised(
    page: Page,
    sides: Sides,
    pair: Pair,
    directory: Path,
    named: Peer | None,
) -> Page:
    """Add to the `page` of two models that differ what would make them agree.

    Other values of fields that the user set are tried only for a class that the user `named`.
    """
    if not named:
        dialect = sides.inspected.detected.dialect
        hint = alternatives.other_class(page.ran, sides.opened.config, dialect)
        page = dataclasses.replace(page, hint=hint)
    logits = page.random_weights or page.stages[-1]
    if page.weights or logits.same:
        return page
    fields = [*page.assumed, *(page.given if named else ())]
    agreement = None
    if named:
        agreement = alternatives.measured(named, sides.inspected, sides.opened.config, fields)
    agreement = agreement or alternatives.agreeing(
        pair.module, pair.model, sides.tokens()[:, :-1], fields
    )
    if agreement is None:
        return page
    settled = {**sides.inspected.detected.report.given, **page.given, **agreement.fields}
    command = alternatives.command(sides.inspected, sides.opened, directory, settled)
    return dataclasses.replace(page, agreeing=dataclasses.replace(agreement, command=command))

"""Proves that a checkpoint and a model directory hold the same function, or finds a difference.

The torch class of the checkpoint runs beside the Flax model, in float64.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxgpt.seq2seq_config import ENCODER

from ..foreign.constructor_args import MEANING
from ..foreign.peer import Peer, hindrance
from . import alternatives
from .other_weights import Pair
from .prove import compare_thoroughly
from .sides import Sides
from .verdict import Standing, Verification, doubt_of

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
    torch: str = "",
    torch_args: Mapping[str, Any] | None = None,
) -> Verification:
    """The verdict on whether `file` and the model in `directory` compute the same function.

    The class of the file runs beside the model in float64: `torch`, or else that of the file's
    dialect. If there is neither, only the tensors are compared. The code of `torch` is imported and
    run.

    Args:
        file: A checkpoint file, or a Hugging Face folder.
        directory: A model directory, or a run.
        train_steps: Also compare every gradient, and the parameters after this many steps of AdamW.
        dialect: The class that wrote the file, where several fit.
        torch: The class of the file, as "module:Class" or "path/to/model.py:Class".
        torch_args: Arguments of that class.

    Returns:
        The verification: its `verdict` is "proven", "unproven" or "differs".
    """
    sides = Sides.read(file, directory, dialect)
    standing = Standing.of(sides.opened, sides.inspected.detected.report)
    page = Verification(given=standing.given, assumed=standing.assumed)
    if different := sides.different_sizes():
        return dataclasses.replace(page, fields=different)
    page = dataclasses.replace(page, weights=sides.unequal_weights())
    named = torch or sides.inspected.detected.dialect.reference
    if not torch and (hint := hindrance(named, sides.inspected.parameters)):
        return dataclasses.replace(page, hint=hint)
    peer = sides.build(named, torch_args or {}, bool(torch))
    page = dataclasses.replace(page, ran=peer.about)
    page, pair = _compared(page, sides, peer, train_steps)
    page = _judged(page, sides, peer, bool(torch))
    if page.verdict == "differs":
        return _advised(page, sides, pair, Path(directory), peer if torch else None)
    return page


def _compared(
    page: Verification, sides: Sides, peer: Peer, train_steps: int
) -> tuple[Verification, Pair]:
    """The page with all comparisons, and the pair of models that was compared last."""
    hidden = sides.hidden(peer)
    pair = Pair(peer.module, sides.model(), sides.example(hidden))
    found = compare_thoroughly(pair, sides.inspected, peer.names, train_steps)
    varied = found.random_weights
    page = dataclasses.replace(
        page,
        stages=found.stages.stages,
        kl=found.stages.kl,
        top1=found.stages.top1,
        notes=[*hidden.caveats, *found.stages.notes],
        training=found.training,
        short_input=found.short_input,
        random_weights=varied.logits.named("logits, constants varied") if varied else None,
    )
    return page, found.pair


def _judged(page: Verification, sides: Sides, peer: Peer, by_user: bool) -> Verification:
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
    # If an argument sets a field of both sides, the user's value for one side counts for both.
    set_by_user |= {f"{ENCODER}{field}" for field in answers.for_both & page.given.keys()}
    # An argument that the file itself records counts as read, not as passed by us.
    page = page.judged(answers.fields - report.read.keys(), set_by_user)
    if sides.origin.get("dialect") in (None, sides.inspected.detected.dialect.name):
        return page
    # Running the class of this file proves nothing about the one that the model came from.
    return dataclasses.replace(page, inherited=Standing.of(sides.opened, report).assumed)


def _with_defaults(page: Verification, defaults: Mapping[str, Any]) -> Verification:
    """The page in doubt: the class may have had other arguments than `defaults` in training."""
    listed = ", ".join(f"{word} = {value!r}" for word, value in defaults.items())
    return dataclasses.replace(page, doubt=doubt_of(listed), defaults=dict(defaults))


def _advised(
    page: Verification,
    sides: Sides,
    pair: Pair,
    directory: Path,
    named: Peer | None,
) -> Verification:
    """Add to the `page` of two different models the changes that would make them agree.

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
        pair.module, pair.model, pair.example.inputs, fields
    )
    if agreement is None:
        return page
    settled = {**sides.inspected.detected.report.given, **page.given, **agreement.fields}
    command = alternatives.command(sides.inspected, sides.opened, directory, settled)
    return dataclasses.replace(page, agreeing=dataclasses.replace(agreement, command=command))

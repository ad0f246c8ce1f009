"""Finds the order of batch and time in a foreign class by what its logits depend on."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from jaxgpt.errors import UserError

from .forward import logits_of, returned_for

CLOSE = 1e-9  # of logits in float64, relative to the largest
SHORT = 4  # tokens; enough to tell the two axes apart
RANDOM = (
    "gives other logits each time that it runs on the same texts: something random stays on in "
    "evaluation, such as F.dropout without training=self.training. Switch it off in the class."
)
MIXED = (
    "computes the logits of a text from other texts of its batch too: an attention takes the axis "
    "of the batch for that of time, as nn.MultiheadAttention does without batch_first=True where "
    "x is (batch, time, width). No model here computes that."
)
BY_ROW = (
    "gives the same text other logits in another row of a batch: a part of it takes the axis of "
    "the batch for that of time, such as a table of positions that is cut with x.size(0) where x "
    "is (batch, time, width). No model here computes that, so a class that was trained with it "
    "cannot be converted."
)
FORGETFUL = "computes logits that do not depend on any token before. No model here does."
Run = Callable[[torch.Tensor], torch.Tensor]  # ids (B, T) -> logits (B, T, V)


class Layout(NamedTuple):
    """Whether time precedes the batch in the ids that a class takes, and in its logits."""

    ids: bool = False
    logits: bool = False

    def of_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """`ids` (B, T), or a memory (B, S, D), with its axes in the order of the class."""
        return ids.transpose(0, 1).contiguous() if self.ids else ids

    def of_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """`logits`, or what has their first two axes, from the order of the class to batch and
        time, or back."""
        return logits.transpose(0, 1) if self.logits else logits


LAYOUTS = (Layout(), Layout(True, True), Layout(True, False), Layout(False, True))


class Reordered(torch.nn.Module):
    """`module` with batch before time: a module that takes ids (B, T) and returns (B, T, V)."""

    def __init__(self, module: torch.nn.Module, layout: Layout) -> None:
        super().__init__()
        self.module = module
        self.layout = layout

    def forward(self, ids: torch.Tensor) -> Any:
        logits = returned_for(self.module, self.layout.of_ids(ids))
        is_tensor = isinstance(logits, torch.Tensor) and logits.ndim == 3
        return self.layout.of_logits(logits) if is_tensor else logits


def batch_first(module: torch.nn.Module, ids: torch.Tensor) -> torch.nn.Module:
    """A module that takes `ids` (B, T): `module` itself unless it wants time first."""
    return arranged(module, ids)[0]


def arranged(module: torch.nn.Module, ids: torch.Tensor) -> tuple[torch.nn.Module, str]:
    """The result of `batch_first`, and why `module` is no model of texts, or "".

    `module` is left alone if it does not run, as a class that only takes texts of full length.
    """
    training = module.training
    module.eval()
    short = two_of(ids)[:, :SHORT]
    problem = ""
    try:
        with torch.no_grad():
            for layout in LAYOUTS:
                candidate = Reordered(module, layout) if any(layout) else module
                try:
                    found = problem_of(functools.partial(logits_of, candidate), short)
                except UserError:
                    continue
                if not found:
                    return candidate, ""
                problem = problem if any(layout) else found
    finally:
        module.train(training)
    return module, "" if problem == FORGETFUL else problem


def two_of(texts: torch.Tensor) -> torch.Tensor:
    """Two rows of `texts`, if possible of texts that do not repeat their first token."""
    varied = texts[(texts != texts[:, :1]).flatten(1).any(1)]
    rows = varied if len(varied) else texts
    return torch.cat([rows, rows])[:2]


def problem_of(run: Run, ids: torch.Tensor) -> str:
    """What keeps `run` from computing the logits of each text of `ids` from that text; or "".

    A sentence about the class.
    """
    others = ids[ids != ids[0, 0]]
    if ids.shape[1] < 2 or not len(others):
        return ""
    before = run(ids)
    close = CLOSE * float(before.abs().max())
    if (run(ids) - before).abs().max() > close:
        return RANDOM
    changed = ids.clone()
    changed[0, 0] = others[0]
    gaps = (run(changed) - before).abs().amax(-1) > close
    if gaps[1:].any():
        return MIXED
    if not gaps[0, 1:].any():
        return FORGETFUL
    alike = run(ids[:1].expand_as(ids).contiguous())
    return BY_ROW if (alike[1:] - alike[:1]).abs().max() > close else ""

"""The masks that a foreign class may ask its caller for, by the words of its parameters."""

import inspect
import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch

Mask = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # of (target ids, what is attended to)


def _future(tokens: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()


# Masks of the target and of the source: true where a position may be seen, or where it may not, or
# what is added to scores; the last two are those of torch's own layers.
FORMS: tuple[tuple[Mask, Mask], ...] = (
    (
        lambda t, s: torch.zeros(t.shape[1], t.shape[1]).masked_fill(~_future(t, s), -torch.inf),
        lambda t, s: torch.zeros(s.shape[1], s.shape[1]),
    ),
    (lambda t, s: ~_future(t, s), lambda t, s: torch.zeros(s.shape[1], s.shape[1]).bool()),
    (
        lambda t, s: _future(t, s)[None, None].expand(len(t), 1, -1, -1),
        lambda t, s: torch.ones(len(s), 1, 1, s.shape[1], dtype=torch.bool),
    ),
    (
        lambda t, s: _future(t, s)[None].expand(len(t), -1, -1),
        lambda t, s: torch.ones(len(s), 1, s.shape[1], dtype=torch.bool),
    ),
    (  # true where a token is real; the class itself hides the future
        lambda t, s: torch.ones(t.shape, dtype=torch.bool),
        lambda t, s: torch.ones(s.shape[:2], dtype=torch.bool),
    ),
)


class Masks(NamedTuple):
    """A form of masks: how those of the target, of the source, and of padding are made."""

    target: Mask
    source: Mask
    real: bool  # the value that marks real tokens in masks of padding
    axes: tuple[int, ...]  # those between the batch and the tokens in masks of padding


ALL = [
    Masks(target, source, real, axes)
    for (target, source), real, axes in itertools.product(FORMS, (False, True), ((), (1,)))
]


def takes_masks(module: torch.nn.Module) -> bool:
    """Whether `module` may ask its caller for masks."""
    functions = (getattr(module, name, None) for name in ("forward", "encode", "decode"))
    words = (word for each in functions if each for word in inspect.signature(each).parameters)
    return any("mask" in word.lower() for word in words)


def is_needed(word: str, parameter: inspect.Parameter) -> bool:
    """Whether `word` is a mask that a class needs: without that of the target, it may not be
    causal."""
    needed = parameter.default is parameter.empty or _of_future(word)
    return "mask" in word.lower() and needed


def made(word: str, ids: torch.Tensor, other: torch.Tensor, masks: Masks) -> torch.Tensor:
    """The mask called `word`: of padding (there is none), of the future, or of the other text."""
    if _of_padding(word):
        like = ids if any(mark in word for mark in ("tgt", "trg", "target")) else other
        return torch.full((len(like), *masks.axes, like.shape[1]), masks.real)
    if _of_future(word) or "dec" in word:
        return masks.target(ids, other)
    return masks.source(ids, other)


def _of_future(word: str) -> bool:
    """Whether the mask `word` is that of the target, without which a class may not be causal."""
    target = any(mark in word for mark in ("tgt", "trg", "target", "causal", "look_ahead"))
    return target and not _of_padding(word)


def _of_padding(word: str) -> bool:
    return "pad" in word

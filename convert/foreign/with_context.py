"""Calls a foreign module that attends to a second text or to given vectors, by its own names.

If it requires masks, each of the usual forms is tried, and each order of batch and time; the one is
used with which the result is causal and depends on all of the second text.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from jaxgpt.errors import UserError

from .encode_decode import run
from .forward import blamed, in_rows, logits_of
from .layout import (
    LAYOUTS,
    Layout,
    batch_first,
    keeps_texts_apart,
    require_alike_in_all_rows,
    two_of,
)

TOKENS = (
    "decoder_input_ids tgt trg target targets tgt_tokens tgt_ids trg_tokens dec_input dec_inputs "
    "decoder_input decoder_inputs tgt_seq trg_seq y idx tokens x input_ids ids dec_x decoder_ids"
)
SOURCE = (
    "src source src_tokens src_ids enc_input enc_inputs encoder_input encoder_inputs src_seq "
    "input_ids x inputs enc_x encoder_ids source_ids input"
)
MEMORY = (
    "memory encoder_hidden_states encoder_output encoder_outputs enc_output enc_out encoder_out "
    "context enc_outputs encoder_states mem"
)
ROLES = {"tokens": TOKENS, "source": SOURCE, "memory": MEMORY}
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


# Masks of padding: the value that marks real tokens, and the axes besides that of the batch.
PADDING = tuple(itertools.product((False, True), ((), (1,))))


class Form(NamedTuple):
    """How a class is called."""

    masks: tuple[Mask, Mask] = FORMS[0]
    padding: tuple[bool, tuple[int, ...]] = PADDING[0]
    layout: Layout = LAYOUTS[0]


class WithContext(torch.nn.Module):
    """A module that takes ids alone, and gives `module` the same second argument for each row."""

    def __init__(
        self, module: torch.nn.Module, other: torch.Tensor, form: Form | None = None
    ) -> None:
        super().__init__()
        self.module = module
        self.other = other  # ids of sources (B, S), or a memory (B, S, D)
        self.form = form  # None if it is not known yet

    def forward(self, ids: torch.Tensor) -> Any:
        other = self.other[: len(ids)]
        if self.form is None:
            self.form = self._suitable(two_of(ids), two_of(other))
        return self._called(ids, other, self.form)

    def _suitable(self, ids: torch.Tensor, other: torch.Tensor) -> Form:
        """The form that works, the usual ones first."""
        training = self.module.training
        self.module.eval()
        errors: list[Exception] = []
        ways = [*itertools.product(FORMS, PADDING)] if self._takes_masks else [Form()[:2]]
        forms = [Form(masks, padding, layout) for layout in LAYOUTS for masks, padding in ways]
        try:
            with torch.no_grad():
                for form in forms:
                    try:
                        right = self._is_right(ids, other, form)
                    except UserError as error:
                        errors += [] if any(form.layout) else [error]
                        continue
                    if right:
                        alike = other[:1].expand_as(other)
                        run = functools.partial(self._logits, other=alike, form=form)
                        require_alike_in_all_rows(self.module, run, ids)
                        return form
        finally:
            self.module.train(training)
        if errors:
            raise errors[0]
        name = type(self.module).__name__
        if len(inspect.signature(self.module.forward).parameters) == 1:
            raise UserError(
                f"The forward of {name} takes one text, and its blocks attend to something else: "
                "the class makes that itself, which no model here does."
            )
        raise UserError(
            f"{name} masks neither the future nor a part of its second text in any form that is "
            "known here. Wrap it in a module whose forward takes the source and the tokens alone, "
            "and makes the masks that it was trained with."
        )

    @property
    def _takes_masks(self) -> bool:
        functions = (getattr(self.module, name, None) for name in ("forward", "encode", "decode"))
        words = (word for each in functions if each for word in inspect.signature(each).parameters)
        return any("mask" in word.lower() for word in words)

    def _is_right(self, ids: torch.Tensor, other: torch.Tensor, form: Form) -> bool:
        """Whether the result is causal, depends on the last position of the other text, and not on
        other rows of the batch."""
        logits = self._logits(ids, other, form)
        if ids.shape[1] < 2 or not torch.isfinite(logits).all():
            return bool(torch.isfinite(logits).all())
        changed = ids.clone()
        changed[:, -1] = ids[:, 0].where(ids[:, 0] != ids[:, -1], ids[:, -2])
        later = self._logits(changed, other, form)
        causal = torch.allclose(logits[:, :-1], later[:, :-1], rtol=0, atol=1e-9)
        moved = other.clone()
        moved[:, -1] = other[:, 0]
        elsewhere = self._logits(ids, moved, form)
        same = torch.equal(moved, other)
        seen = same or not torch.equal(logits[:, 0], elsewhere[:, 0])
        run = functools.partial(self._logits, other=other, form=form)
        return causal and seen and keeps_texts_apart(run, ids)

    def _logits(self, ids: torch.Tensor, other: torch.Tensor, form: Form) -> torch.Tensor:
        logits = self._called(ids, other, form)
        if not isinstance(logits, torch.Tensor) or logits.ndim != 3:
            raise UserError(f"The torch module returned a {type(logits).__name__} and no logits.")
        return logits

    def _called(self, ids: torch.Tensor, other: torch.Tensor, form: Form) -> Any:
        def call(function: Callable[..., Any], values: Mapping[str, torch.Tensor]) -> Any:
            asked = dict(inspect.signature(function).parameters)
            named = _named(asked, values)
            for word, parameter in asked.items():
                if word in named or "mask" not in word.lower():
                    continue
                if parameter.default is parameter.empty or _of_future(word):
                    named[word] = _mask(word, ids, other, form)
            whole = function == self.module.forward
            return self.module(**named) if whole else function(**named)

        with blamed(f"The forward of {type(self.module).__name__}"):
            layout = form.layout
            returned = run(self.module, call, layout.of_ids(ids), layout.of_ids(other))
            logits = in_rows(returned, layout.of_logits(ids))
            is_tensor = isinstance(logits, torch.Tensor) and logits.ndim == 3
            return layout.of_logits(logits) if is_tensor else logits


class Caller:
    """Runs a module on ids, and on what they attend to; the form of its masks is found once."""

    def __init__(self, module: torch.nn.Module):
        self.module = module
        self._form: Form | None = None
        self._alone: torch.nn.Module | None = None  # takes ids (B, T)

    def __call__(self, ids: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """The logits for `ids`, which attend to the sources or the memory `other`."""
        if other is None:
            self._alone = self._alone or batch_first(self.module, ids)
            return logits_of(self._alone, ids)
        context = WithContext(self.module, other, self._form)
        logits = logits_of(context, ids)
        self._form = context.form
        return logits


def _named(asked: Mapping[str, Any], values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`values`, which are by role, under the names of the parameters `asked`."""
    named: dict[str, torch.Tensor] = {}
    for role in values:
        words = (word for word in ROLES[role].split() if word in asked and word not in named)
        word = next(words, None)
        if word is not None:
            named[word] = values[role]
    if len(named) < len(values):  # by their order: a memory comes last
        order = [role for role in ("source", "tokens", "memory") if role in values]
        return dict(zip(asked, (values[role] for role in order), strict=False))
    return named


def _of_future(word: str) -> bool:
    """Whether the mask `word` is that of the target, without which a class may not be causal."""
    target = any(mark in word for mark in ("tgt", "trg", "target", "causal", "look_ahead"))
    return target and not _of_padding(word)


def _of_padding(word: str) -> bool:
    return "pad" in word


def _mask(word: str, ids: torch.Tensor, other: torch.Tensor, form: Form) -> torch.Tensor:
    """The mask called `word`: of padding (there is none), of the future, or of the other text."""
    if _of_padding(word):
        like = ids if any(mark in word for mark in ("tgt", "trg", "target")) else other
        real, axes = form.padding
        return torch.full((len(like), *axes, like.shape[1]), real)
    if _of_future(word) or "dec" in word:
        return form.masks[0](ids, other)
    return form.masks[1](ids, other)

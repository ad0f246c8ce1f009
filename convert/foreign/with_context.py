"""Calls a foreign module that attends to a second text or to given vectors, by its own names.

If it requires masks, each of the usual forms is tried, and each order of batch and time; the one is
used with which the result is causal and depends on all of the second text.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from jaxgpt.errors import UserError

from . import masks
from .encode_decode import run
from .forward import blamed, in_rows, logits_of
from .layout import BY_ROW, LAYOUTS, RANDOM, Layout, arranged, problem_of, two_of

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
INFINITE = "computes logits that are NaN or infinite."
SEES_FUTURE = (
    "computes its logits from the tokens after them too: it has no causal mask, which all decoders "
    "have here. If its caller passed one in training, derive a class whose forward makes it."
)
IGNORES_SOURCE = (
    "computes logits that do not depend on the last token of the source. No model here does."
)


class Form(NamedTuple):
    """How a class is called."""

    masks: masks.Masks
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
        errors: list[UserError] = []
        problems: list[str] = []
        ways = masks.ALL if masks.takes_masks(self.module) else masks.ALL[:1]
        try:
            with torch.no_grad():
                for layout, each in itertools.product(LAYOUTS, ways):
                    form = Form(each, layout)
                    try:
                        problem = self._problem(ids, other, form)
                    except UserError as error:
                        errors += [] if any(form.layout) else [error]
                        continue
                    if not problem:
                        return form
                    problems += [] if any(form.layout) else [problem]
        finally:
            self.module.train(training)
        certain = {RANDOM, BY_ROW} & {*problems}
        if errors and not certain and (masks.takes_masks(self.module) or not problems):
            raise errors[0]
        raise UserError(self._refusal(problems))

    def _refusal(self, problems: Sequence[str]) -> str:
        """The error for a class that has one of `problems` in each form."""
        name = type(self.module).__name__
        if len(inspect.signature(self.module.forward).parameters) == 1:
            return (
                f"The forward of {name} takes one text, and its blocks attend to something else: "
                "the class makes that itself, which no model here does."
            )
        certain = [each for each in (RANDOM, BY_ROW) if each in problems]
        if certain or not masks.takes_masks(self.module):
            return f"The forward of {name} {[*certain, *problems][0]}"
        return (
            f"{name} masks neither the future nor a part of its second text in any form that is "
            "known here. Wrap it in a module whose forward takes the source and the tokens alone, "
            "and makes the masks that it was trained with."
        )

    def _problem(self, ids: torch.Tensor, other: torch.Tensor, form: Form) -> str:
        """What is wrong with the logits that the class gives in `form`, in a sentence; or ""."""
        logits = self._logits(ids, other, form)
        if not torch.isfinite(logits).all():
            return INFINITE
        if ids.shape[1] < 2:
            return ""
        alike = other[:1].expand_as(other).contiguous()  # or rows would differ by their sources
        if problem := problem_of(functools.partial(self._logits, other=alike, form=form), ids):
            return problem
        changed = ids.clone()
        changed[:, -1] = ids[:, 0].where(ids[:, 0] != ids[:, -1], ids[:, -2])
        later = self._logits(changed, other, form)
        if not torch.allclose(logits[:, :-1], later[:, :-1], rtol=0, atol=1e-9):
            return SEES_FUTURE
        moved = other.clone()
        moved[:, -1] = other[:, 0]
        elsewhere = self._logits(ids, moved, form)
        same = torch.equal(moved, other)
        return "" if same or not torch.equal(logits[:, 0], elsewhere[:, 0]) else IGNORES_SOURCE

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
                if word not in named and masks.is_needed(word, parameter):
                    named[word] = masks.made(word, ids, other, form.masks)
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
            if self._alone is None:
                module, problem = arranged(self.module, ids)
                if problem:
                    raise UserError(f"The forward of {type(self.module).__name__} {problem}")
                self._alone = module
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

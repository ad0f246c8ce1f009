"""The errors of detection that callers handle: unknown tensors, and a field that must be given."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from jaxgpt.errors import UserError


class UnknownTensors(UserError):
    """No dialect explains these tensors; `why` makes the message, which takes seconds."""

    def __init__(self, why: Callable[[], str]):
        super().__init__()
        self._why = why

    @functools.cached_property
    def _text(self) -> str:
        return self._why()

    def __str__(self) -> str:
        return self._text


class Asked(UserError):
    """A field without a usual value is missing: the caller must set it.

    Its `candidates` are the values that fit the file, where these are few.
    """

    def __init__(self, field: str, problem: str, candidates: Sequence[Any] = ()):
        super().__init__(problem)
        self.field, self.candidates = field, candidates

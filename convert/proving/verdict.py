"""The result of `verify`, and whether it is a proof, which depends on the source of each field."""

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxgpt.seq2seq_config import ENCODER, field_of
from jaxgpt.storage.model_directory import ModelDirectory

from ..detect.report import Report
from .difference import Difference
from .tolerances import TOLERANCE
from .training import Training

Verdict = Literal["proven", "unproven", "differs"]
OFF = "dropout"  # off in both models while they are compared


@dataclass(frozen=True)
class Standing:
    """The fields of a model that no file shows, with their values, by their source."""

    given: dict[str, Any]  # set by the user
    assumed: dict[str, Any]  # a usual value

    @staticmethod
    def of(opened: ModelDirectory, report: Report) -> "Standing":
        """The standing of the fields in the model directory `opened`.

        If the directory does not record how its fields are known, the `report` on the file that is
        compared with it is used, and fields given there count as assumed.
        """
        recorded = opened.about.get("fields") or {}
        trained_here = "step" in opened.about and "source" not in opened.about
        if not recorded and not trained_here:
            recorded = {"assumed": {**report.given, **report.assumed}}
        given, assumed = (
            {
                name: field_of(opened.config, name)
                for name in recorded.get(how, {})
                if name.removeprefix(ENCODER) != OFF
            }
            for how in ("given", "assumed")
        )
        return Standing(given, assumed)


@dataclass(frozen=True)
class Agreement:
    """Field values with which the model would compute the same as the torch class."""

    fields: dict[str, Any]
    max: float  # largest remaining difference of the logits
    command: str = ""  # to-flax with these fields


def doubt_of(defaults: str) -> str:
    """What must be true where a class was built with its own `defaults`; "" if there are none."""
    return (
        f"the class was built with {defaults}, its defaults, for training too" if defaults else ""
    )


@dataclass(frozen=True)
class Verification:
    """The complete result of `verify`, from which its page and its JSON are made.

    `verdict` is the result in a word, `first_difference` the name of the first quantity that
    differs, and `as_dict()` everything as JSON values.
    """

    # In the order of the computation; the last is the logits.
    stages: list[Difference] = field(default_factory=list)
    kl: float | None = None
    top1: float | None = None
    short_input: Difference | None = None  # logits of a few tokens, torch alone
    random_weights: Difference | None = None  # logits after constant tensors were made random
    training: Training | None = None
    # Sizes that differ: (torch, flax).
    fields: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    # Names of tensors whose values differ.
    weights: list[str] = field(default_factory=list)
    ran: str = ""  # the torch class and its arguments; "" if only tensors were compared
    # The condition for the class that ran to be that of the file; "" if it certainly is.
    doubt: str = ""
    defaults: dict[str, Any] = field(default_factory=dict)  # arguments of the class, in doubt
    hint: str = ""  # how to obtain a proof
    notes: list[str] = field(default_factory=list)  # what was compared with what, as sentences
    # Fields that no file shows: proven by running the class, set by the user, assumed.
    proven: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    assumed: dict[str, Any] = field(default_factory=dict)
    # Fields assumed for another file, from which the model was converted.
    inherited: dict[str, Any] = field(default_factory=dict)
    agreeing: Agreement | None = None  # field values that would remove the difference

    @property
    def further(self) -> list[Difference]:
        """The comparisons that were made after those of the stages."""
        return [item for item in (self.short_input, self.random_weights) if item]

    @property
    def first_difference(self) -> str | None:
        trained = self.training.rows if self.training else []
        computed = (item.name for item in [*self.stages, *self.further, *trained] if not item.same)
        return next(computed, self.weights[0] if self.weights else None)

    @property
    def tolerance(self) -> float:
        return TOLERANCE

    @property
    def same(self) -> bool:
        return not self.fields and self.first_difference is None

    @property
    def verdict(self) -> Verdict:
        """The verdict on the two models.

        Equal tensors alone prove nothing. Nor does running a class that may not be the one that
        wrote the file, or that was chosen or built by assumptions.
        """
        if not self.same:
            return "differs"
        return "unproven" if self.assumed or self.doubt or not self.ran else "proven"

    def judged(self, passed: Collection[str], set_by_user: Collection[str]) -> "Verification":
        """The page after the file's own class has run: given and assumed fields may be proven.

        Of the arguments of the class, those in `passed` were passed by us, so that running it does
        not prove them; those in `set_by_user` come from the user.
        """
        fields = {**self.given, **self.assumed}
        by_user = {*self.given, *set_by_user}
        given = {name: fields[name] for name in fields if name in passed and name in by_user}
        assumed = {name: fields[name] for name in fields if name in passed and name not in by_user}
        proven = {name: fields[name] for name in fields if name not in passed}
        return dataclasses.replace(self, proven=proven, given=given, assumed=assumed)

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        summary = {
            "verdict": self.verdict,
            "same": self.same,
            "first_difference": self.first_difference,
            "tolerance": self.tolerance,
        }
        trained = self.training.rows if self.training else []
        training = [dataclasses.asdict(row) for row in trained]
        return _finite({**summary, **dataclasses.asdict(self), "training": training})


def _finite(value: Any) -> Any:
    """Replace non-finite numbers in `value` by None, as JSON has none."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""What `verify` found, and whether it is a proof: on whose word each field of the model stands."""

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxgpt.storage.model_directory import ModelDirectory

from ..detect.detect import Report
from .float64 import TOLERANCE, Difference

Verdict = Literal["proven", "unproven", "differs"]
OFF = "dropout"  # off in both models while they are compared


@dataclass(frozen=True)
class Standing:
    """The fields of a model that no file shows, with their values, by whose word they stand."""

    given: dict[str, Any]  # the person's
    assumed: dict[str, Any]  # nobody's

    @staticmethod
    def of(opened: ModelDirectory, report: Report) -> "Standing":
        """The standing of each field in a model directory. `report`, of the file compared with it,
        serves where the directory does not say how its fields are known: there, what the file
        needed to be told is assumed too."""
        known = opened.about.get("fields") or {}
        trained_here = "step" in opened.about and "source" not in opened.about
        if not known and not trained_here:
            known = {"assumed": {**report.given, **report.assumed}}
        given, assumed = (
            {name: getattr(opened.config, name) for name in known.get(how, {}) if name != OFF}
            for how in ("given", "assumed")
        )
        return Standing(given, assumed)


@dataclass(frozen=True)
class Agreement:
    """Fields with which the model would compute what the torch class computes."""

    fields: dict[str, Any]
    max: float  # the largest difference of the logits that is left
    command: str = ""  # that brings the file over with these fields


@dataclass(frozen=True)
class Page:
    """Everything that `verify` found."""

    # In the order of the computation; the last is the logits.
    stages: list[Difference] = field(default_factory=list)
    kl: float | None = None
    top1: float | None = None
    # Sizes that differ: (torch, flax).
    fields: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    # Tensors that do not hold the same numbers.
    weights: list[str] = field(default_factory=list)
    # The loss, each gradient, each parameter after N steps.
    training: list[Difference] = field(default_factory=list)
    ran: str = ""  # the torch class, and how it was built; otherwise only numbers were compared
    hint: str = ""  # what would make a proof of it
    # Fields that no file shows: shown by running the class, on the person's word, on nobody's word.
    proven: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    assumed: dict[str, Any] = field(default_factory=dict)
    # What was assumed of another file, which the model came from.
    inherited: dict[str, Any] = field(default_factory=dict)
    agreeing: Agreement | None = None  # where the two differ, what would mend it

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

    @property
    def verdict(self) -> Verdict:
        """Equal numbers alone prove nothing, nor does a class that computes what was assumed."""
        if not self.same:
            return "differs"
        return "unproven" if self.assumed or not self.ran else "proven"

    def judged(
        self,
        standing: Standing,
        certain: bool,
        told: Collection[str],
        said: Collection[str],
    ) -> "Page":
        """The page with the fields of `standing` in their places. `certain` says that the class
        which ran is the file's own; of its arguments, those in `told` came from us, and those in `said`
        from the person."""
        if not (self.same and certain):
            return dataclasses.replace(self, given=standing.given, assumed=standing.assumed)
        fields = {**standing.given, **standing.assumed}
        proven = {name: value for name, value in fields.items() if name not in told}
        left = {name: value for name, value in fields.items() if name in told}
        theirs = {*standing.given, *said}
        given = {name: value for name, value in left.items() if name in theirs}
        assumed = {name: value for name, value in left.items() if name not in given}
        return dataclasses.replace(self, proven=proven, given=given, assumed=assumed)

    def as_dict(self) -> dict[str, Any]:
        whole = {
            "verdict": self.verdict,
            "same": self.same,
            "first_difference": self.first_difference,
            "tolerance": self.tolerance,
        }
        return _finite({**whole, **dataclasses.asdict(self)})


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

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
        """Read from a model directory. `report` is that of the file it is compared with, and serves where the
        directory does not say how its fields are known: there, what the file needed to be told is assumed too."""
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

    stages: list[Difference] = field(default_factory=list)  # in the order of the computation; the last is the logits
    kl: float | None = None
    top1: float | None = None
    fields: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # sizes that differ: (torch, flax)
    weights: list[str] = field(default_factory=list)  # tensors that are not the same numbers
    training: list[Difference] = field(default_factory=list)  # each gradient, each parameter after N steps
    ran: str = ""  # the torch class, and how it was built; otherwise only numbers were compared
    hint: str = ""  # what would make a proof of it
    proven: dict[str, Any] = field(default_factory=dict)  # fields that no file shows, and running the class does
    given: dict[str, Any] = field(default_factory=dict)  # fields that stand on the person's word
    assumed: dict[str, Any] = field(default_factory=dict)  # fields that stand on nobody's word
    inherited: dict[str, Any] = field(default_factory=dict)  # those of another file, which the model came from
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

    def judged(self, standing: Standing, certain: bool, told: Collection[str], said: Collection[str]) -> "Page":
        """The page with the fields of `standing` in their places. `certain` says that the class which ran is the
        file's own; of that class, fields in `told` were its arguments, and those in `said` the person chose."""
        if not (self.same and certain):
            return dataclasses.replace(self, given=standing.given, assumed=standing.assumed)
        fields = {**standing.given, **standing.assumed}
        proven = {name: value for name, value in fields.items() if name not in told}
        left = {name: value for name, value in fields.items() if name in told}
        given = {name: value for name, value in left.items() if name in standing.given or name in said}
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

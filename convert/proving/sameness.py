"""The report of `assert_same`: what differs, and where to look."""

from dataclasses import dataclass, field

from jaxgpt.errors import in_a_row

from .difference import Difference
from .tolerances import TOLERANCE
from .training import Training


@dataclass(frozen=True)
class Sameness:
    """The differences of a torch module and a JAX model, and which parameter is which."""

    logits: Difference
    kl: float  # mean KL divergence, in nats
    top1: float  # fraction of the positions at which both predict the same token
    what: str = "jaxgpt model"  # the model that was compared with the torch module
    # For a function with parameters: name in torch -> its paths in JAX, proposed or given.
    names: dict[str, list[str]] = field(default_factory=dict)
    only_torch: list[str] = field(default_factory=list)  # parameters with values that JAX lacks
    only_jax: list[str] = field(default_factory=list)
    training: Training | None = None
    hint: str = ""  # the change after which the two agree, if one was found

    @property
    def first_difference(self) -> str | None:
        """The first quantity that differs: values of parameters, logits, gradients, training."""
        trained = self.training.rows if self.training else []
        rows = (item.name for item in [self.logits, *trained] if not item.same)
        alone = [*self.only_torch, *self.only_jax]
        return alone[0] if alone else next(rows, None)

    def __str__(self) -> str:
        if self.first_difference is None:
            return f"The torch module and the {self.what} are the same within {TOLERANCE:g}."
        return " ".join([f"The torch module and the {self.what} differ:", *self._where()])

    def _where(self) -> list[str]:
        """Sentences on what differs, in the order of the computation."""
        lines = []
        if self.only_torch:
            names = in_a_row(self.only_torch, ", ")
            lines.append(f"values of {names} are in no array of the JAX parameters.")
        if self.only_jax:
            names = in_a_row(self.only_jax, ", ")
            lines.append(f"values of {names} are in no parameter of the torch module.")
        if not self.logits.same:
            one = self.logits
            lines.append(
                f"logits by up to {one.max:.3g} (mean {one.mean:.3g}, largest logit "
                f"{one.scale:.3g}, tolerance {TOLERANCE:g} of it); KL {self.kl:.3g}, top-1 "
                f"agreement {self.top1:.2%}."
            )
            return [*lines, self.hint] if self.hint else lines
        return lines + (_lines(self.training) if self.training else [])


def _lines(training: Training) -> list[str]:
    """Sentences on the gradients or else the trained parameters that differ, of equal logits."""
    lines = []
    wrong = [item for item in training.gradients if not item.same]
    if wrong:
        last = wrong[-1]
        lines.append(
            f"the logits agree, but {len(wrong)} of {len(training.gradients)} gradients differ. "
            f"The one nearest to the loss is that of {last.name}: it differs by up to "
            f"{last.max:.3g} (largest {last.scale:.3g}). Look there first: a fault there changes "
            "the gradients of all that is before it in the model. These differ: "
            f"{in_a_row((item.name for item in wrong), ', ')}."
        )
    moved = [item for item in training.parameters if not item.same]
    if moved and not wrong:
        first = moved[0]
        lines.append(
            f"logits and gradients agree, but {len(moved)} of {len(training.parameters)} "
            f"parameters differ after {training.steps} steps, first {first.name} by up to "
            f"{first.max:.3g}: look for the cause in the settings of the optimisers."
        )
    return lines

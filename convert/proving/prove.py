"""Compares a torch class with a jaxgpt model in every way that could show a difference."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..loaded import Inspected, Loaded
from ..measuring.settled_file import File
from ..measuring.subject import Differs
from .difference import Difference
from .example import example_for
from .other_weights import Pair, with_random_constants
from .parity import Comparison, compare, compare_prefix
from .training import Training, compare_training


@dataclass(frozen=True)
class Comparisons:
    """The comparisons of a torch module with a model, up to the first that shows a difference."""

    pair: Pair  # the two that were compared last
    stages: Comparison
    training: Training | None = None
    short_input: Difference | None = None  # logits of a few tokens, torch alone
    random_weights: Comparison | None = None  # after constant tensors were made random

    @property
    def first_difference(self) -> str | None:
        """The name of the first stage that differs."""
        if stage := self.stages.first_difference:
            return stage
        if self.short_input and not self.short_input.same:
            return self.short_input.name
        if self.random_weights and (stage := self.random_weights.first_difference):
            return f"{stage}, where constant tensors are varied"
        return None


def compare_thoroughly(
    pair: Pair, file: Inspected, names: Mapping[str, str], train_steps: int = 0
) -> Comparisons:
    """Compare the two models of `pair`, which have the weights of `file`.

    `names` maps the names of its tensors to those in the module. With `train_steps`, gradients and
    the parameters after so many steps are compared too.
    """
    module, model, example = pair.module, pair.model, pair.example
    dialect = file.detected.dialect
    stages, training = compare(module, model, example.inputs, dialect), None
    if train_steps:
        training = compare_training(module, model, example, dialect, train_steps)
    found = Comparisons(pair, stages, training)
    if stages.first_difference or (training and training.first_difference):
        return found
    found = replace(found, short_input=compare_prefix(module, example.inputs))
    if found.first_difference:
        return found
    other = with_random_constants(pair, file, names)
    if not other:
        return found
    varied = compare(other.module, other.model, other.example.inputs, dialect)
    return replace(found, pair=other, random_weights=varied)


def prove(file: File, loaded: Loaded) -> None:
    """Raise Differs unless the class of `file` and the model compute the same, stage by stage."""
    pair = Pair(file.peer.module, loaded.model, example_for(loaded.config, hidden=file.hidden))
    first = compare_thoroughly(pair, file.inspected, file.peer.names).first_difference
    if first:
        raise Differs.first_in(
            first, "with all fields as the class has them", file.inspected.source.path
        )

"""Plans how a model directory is written as a checkpoint file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxgpt.errors import UserError
from jaxgpt.file_names import STATE
from jaxgpt.seq2seq_config import AnyConfig
from jaxgpt.storage.model_directory import ModelDirectory

from .choose import choose
from .dialects import named
from .extras import write_extras
from .extras.origin import Origin
from .extras.torch_adamw import find
from .rows import whole
from .rows.pair import AnyDialect
from .streams import Stream


@dataclass(frozen=True)
class Written:
    """The facts about a written file or folder that users are told."""

    source: Path  # the model directory
    config: AnyConfig
    dialect: AnyDialect
    filled: list[str]  # biases that the class has and the model lacks
    extras: list[Any] = field(default_factory=list)  # the names of the extras in the file
    # Fields in which the model differs from the usual one of its class: (ours, usual).
    unlike: dict[str, tuple[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class WritePlan:
    """The class, the names and the extras of a file that has not been written yet."""

    opened: ModelDirectory
    dialect: AnyDialect  # the dialect of the class that will load the file
    nested: str = ""  # the key of the state dict, "" at the root
    prefix: str = ""  # of all names
    extras: Mapping[Any, Any] = field(default_factory=dict)
    certain: frozenset[str] = frozenset()  # fields that the class is certain to have

    @staticmethod
    def as_it_was(opened: ModelDirectory, origin: Origin, weights_only: bool) -> "WritePlan":
        """The plan for a file like the one that the model came from."""
        extras = {} if weights_only else write_extras.as_the_file_had(opened, origin)
        return WritePlan(
            opened, origin.dialect, origin.nested, origin.prefix, extras, origin.certain
        )

    @staticmethod
    def as_its_class(
        opened: ModelDirectory, dialect: AnyDialect, origin: Origin | None
    ) -> "WritePlan":
        """The plan for a file as programs of the class of `dialect` save it."""
        return WritePlan(
            opened,
            dialect,
            nested=dialect.container.weights,
            extras=write_extras.as_the_class_does(opened, dialect, origin),
            certain=_certain(origin, dialect),
        )

    @staticmethod
    def bare(opened: ModelDirectory, dialect: AnyDialect, origin: Origin | None) -> "WritePlan":
        """The plan for a file with a state dict of the class of `dialect`, and nothing else."""
        return WritePlan(opened, dialect, certain=_certain(origin, dialect))

    def tensors(self) -> Stream:
        """The tensors of the file, in the order of the class."""
        opened = self.opened
        stream = whole.stream(self.dialect, opened.config, opened.dtypes, opened.read)
        return stream.with_prefix(self.prefix)

    @property
    def result(self) -> Written:
        """A description of the file, for the user."""
        config = self.opened.config
        filled = whole.filled(self.dialect, config, set(self.opened.paths))
        unlike = self.dialect.unlike(config, self.certain)
        return Written(self.opened.path, config, self.dialect, filled, list(self.extras), unlike)


def plan(
    opened: ModelDirectory, out: Path, dialect: str | None, optimizer: bool, weights_only: bool
) -> WritePlan:
    """Decide how the model in `opened` is written to the file `out`.

    With `optimizer`, the optimiser's state is written even if files of the class may lack it.
    """
    weights_only = weights_only or out.suffix == ".safetensors"
    if optimizer:
        _require_possible(opened, weights_only)
    origin = Origin.of(opened)
    if origin and not dialect:
        plan = WritePlan.as_it_was(opened, origin, weights_only)
        if optimizer and not find(plan.extras):
            raise UserError(
                f"The file that {opened.path} came from had no optimiser: name with --dialect the "
                "class to write one for."
            )
        return plan
    target = named(dialect) if dialect else choose(opened.config, opened.paths)
    if optimizer or (target.container.settings and not weights_only):
        return WritePlan.as_its_class(opened, target, origin)
    return WritePlan.bare(opened, target, origin)


def _require_possible(opened: ModelDirectory, weights_only: bool) -> None:
    """Require that the file has a place for an optimiser, and that there is one."""
    if weights_only:
        raise UserError(
            "--optimizer writes the optimiser's state, which only .pt and .pth files can hold, and "
            "--weights-only leaves it out."
        )
    if not (opened.path / STATE).is_dir():
        raise UserError(f"--optimizer asks for the optimiser's state, but {opened.path} has none.")


def _certain(origin: Origin | None, dialect: AnyDialect) -> frozenset[str]:
    return origin.certain_of(dialect) if origin else frozenset()

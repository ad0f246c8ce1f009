"""The record in a model directory of the checkpoint file that its model came from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxgpt.errors import UserError
from jaxgpt.file_names import CONFIG
from jaxgpt.storage.model_directory import ModelDirectory

from ..dialects import DIALECTS, PAIRS
from ..rows.dialect import Dialect
from ..rows.pair import AnyDialect, Pair
from . import plain_values
from .param_groups import Group

STRUCTURE = Dialect("", "its structure alone", ())  # for files that no dialect describes
STRUCTURES = Pair("", "its structure alone", STRUCTURE, STRUCTURE)


@dataclass(frozen=True)
class RecordedOptimizer:
    """The layout of the file's AdamW; its moments are stored like the parameters."""

    key: str  # its key in the file
    groups: tuple[Group, ...]
    untouched: tuple[str, ...]  # parameters without moments


@dataclass(frozen=True)
class Origin:
    """The file that a model came from."""

    dialect: AnyDialect  # with the tensor names of that file
    nested: str  # the key of its state dict
    prefix: str  # the prefix of all names
    extras: Mapping[Any, Any]  # its plain values besides the weights
    optimizer: RecordedOptimizer | None
    certain: frozenset[str]  # fields that were read from it, given, or found with its class

    def certain_of(self, dialect: AnyDialect) -> frozenset[str]:
        """The fields that the class of `dialect` is certain to have: none for another class."""
        return self.certain if dialect.name == self.dialect.name else frozenset()

    @staticmethod
    def of(opened: ModelDirectory) -> "Origin | None":
        """The origin in the config.json of `opened`; None for a model that was trained here."""
        source = opened.about.get("source") or {}
        if not {"rows", "sides"} & source.keys():
            return None
        try:
            return _parsed(source, opened.about.get("fields", {}))
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise UserError(
                f"{opened.path / CONFIG}: its source cannot be read ({error!r}); give --dialect."
            ) from None


def _parsed(source: Mapping[str, Any], fields: Mapping[str, Any]) -> Origin:
    name = source.get("dialect", "")
    usual: AnyDialect = DIALECTS.get(name, STRUCTURE)
    if "sides" in source:
        usual = PAIRS.get(name, STRUCTURES)
    return Origin(
        dialect=usual.reread(source),
        nested=source["nested"],
        prefix=source["prefix"],
        extras=dict(plain_values.decode(pair) for pair in source.get("beside", [])),
        optimizer=_optimizer(source["optimizer"]) if source.get("optimizer") else None,
        certain=frozenset().union(*(fields.get(each, ()) for each in ("read", "given", "found"))),
    )


def _optimizer(recorded: Mapping[str, Any]) -> RecordedOptimizer:
    groups = [
        Group(tuple(group["names"]), plain_values.decode(group["settings"]))
        for group in recorded["groups"]
    ]
    return RecordedOptimizer(recorded["key"], tuple(groups), tuple(recorded["untouched"]))

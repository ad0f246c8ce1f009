"""A checkpoint and a model directory that `verify` compares: sizes, weights, and what runs."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.errors import UserError
from jaxgpt.model import assemble
from jaxgpt.seq2seq_config import ENCODER, Seq2SeqConfig, field_of
from jaxgpt.storage.model_directory import ModelDirectory, to_device

from .. import api
from ..files import checkpoints
from ..foreign.constructor_args import Answers
from ..foreign.imports import folders
from ..foreign.padding import Hidden, hidden_ids
from ..foreign.peer import Peer, build
from ..foreign.with_context import Caller
from ..names.config_words import as_written
from ..rows import whole
from ..rows.dialect import Dialect
from ..rows.fields import FIELDS
from ..rows.pair import AnyDialect
from .example import Example, example_for
from .inspected_for import inspected_for


@dataclass(frozen=True)
class Sides:
    """A checkpoint and a model directory that may hold the same model."""

    inspected: api.Inspected
    opened: ModelDirectory

    @staticmethod
    def read(file: str | Path, directory: str | Path, dialect: str | None) -> "Sides":
        """Read `file` with `dialect`, or the one recorded in `directory`, or one that fits it."""
        opened, source = ModelDirectory(directory), checkpoints.read(file)
        recorded = opened.about.get("source") or {}
        ignore_config, config = recorded.get("ignore_config", False), opened.config
        if dialect:
            return Sides(inspected_for(source, config, dialect, ignore_config), opened)
        try:
            inspected = inspected_for(source, config, recorded.get("dialect"), ignore_config)
        except UserError:
            inspected = inspected_for(source, config, None, False)
        return Sides(inspected, opened)

    @property
    def origin(self) -> Mapping[str, Any]:
        """The directory's record of the file from which it was converted."""
        return self.opened.about.get("source") or {}

    @property
    def trained_here(self) -> bool:
        """Whether the model was trained by jaxgpt first, so that every file of it is an export."""
        return "step" in self.opened.about and not self.origin

    def different_sizes(self) -> dict[str, tuple[Any, Any]]:
        """The sizes that differ, as (file, directory)."""
        read, ours = self.inspected.detected.report.config, self.opened.config
        both = isinstance(read, Seq2SeqConfig)
        if both != isinstance(ours, Seq2SeqConfig):
            kinds = ("an encoder-decoder", "a decoder alone")
            return {"the model": kinds if both else kinds[::-1]}
        prefixes = ("", ENCODER) if both else ("",)
        names = [prefix + name for name in FIELDS.values() for prefix in prefixes]
        sizes = {name: (field_of(read, name), field_of(ours, name)) for name in names}
        return {name: pair for name, pair in sizes.items() if pair[0] != pair[1]}

    def unequal_weights(self) -> list[str]:
        """Names of the tensors whose values differ.

        Logits cannot show this: no batch of tokens uses all rows of an embedding. The file may have
        the rotary layout that its class usually has, or the one that the directory records.
        """
        dialect, config = self.inspected.detected.dialect, self.opened.config
        if not isinstance(dialect, Dialect):
            return self._unequal_weights(dialect)
        layouts = dict.fromkeys([dialect.layout, config.rotary_layout])
        dialects = [dataclasses.replace(dialect, layout=layout) for layout in layouts]
        return min(map(self._unequal_weights, dialects), key=len)

    def _unequal_weights(self, dialect: AnyDialect) -> list[str]:
        opened, theirs = self.opened, self.inspected.source.tensors
        ours = whole.stream(dialect, opened.config, opened.dtypes, opened.read).arrays()
        return [
            name for name, value in ours.items() if not np.array_equal(theirs[name].read(), value)
        ]

    def model(self) -> Any:
        return assemble(self.opened.config, to_device(self.opened.params()))

    def hidden(self, peer: Peer) -> Hidden:
        """The ids that an encoder-decoder hides as padding."""
        dialect, config = self.inspected.detected.dialect, self.inspected.detected.report.config
        return hidden_ids(peer, dialect, config, Caller(peer.module))

    def example(self, hidden: Hidden) -> Example:
        """Token ids that include those that a config names, such as padding, but none `hidden`."""
        source = self.inspected.source
        words = {**source.extras, **(source.config or {})}
        named = [value for word, value in words.items() if str(word).endswith("token_id")]
        special = [id_ for id_ in named if isinstance(id_, int)]
        return example_for(self.opened.config, special, hidden)

    def build(self, named: str, torch_args: Mapping[str, Any], by_user: bool) -> Peer:
        """Build the class `named`, which the user chose if `by_user`, with the file's weights."""
        source, detected = self.inspected.source, self.inspected.detected
        written = {} if self.origin.get("ignore_config") else as_written(source.configs)
        answers = Answers(detected.report.config, detected.report.read, written, torch_args)
        weights = whole.names(detected.dialect, detected.report.config)
        home = folders(named) if by_user else []
        return build(named, answers, source, weights, home)

    def names_its_class(self, peer: Peer) -> bool:
        """Whether the file's own config names the class of `peer`, as Hugging Face's do.

        A config with `auto_map` names code of its own, which has not run.
        """
        kinds = self.inspected.detected.dialect.says.get("model_type", {})
        known = peer.answers.beside.get("model_type") in kinds
        return known and not self.names_another_class(peer)

    def names_another_class(self, peer: Peer) -> bool:
        """Whether the file's own config names code or a class that is not that of `peer`."""
        config, class_name = self.inspected.source.config or {}, type(peer.module).__name__
        written = config.get("architectures") or [
            class_name
        ]  # null in a config that was never saved
        return "auto_map" in config or class_name not in written

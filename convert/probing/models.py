"""The models that a checkpoint may hold, by the values of the fields that it leaves open."""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.pytree import Tree
from jaxgpt.storage import model_directory

from .. import api
from ..detect.errors import Asked
from ..files import checkpoints
from ..rows.arranged import ORDERS
from ..rows.fields import is_relevant
from .candidates import OPTIONS, by_likelihood

# Values with which to read a file that asks for these fields. A short context is safe, a long one
# is not: positions past the true context were never trained. No positions fit files of all shapes.
PLACEHOLDERS = {"context_length": 32, "positions": "none"}
# Fields on which shapes of parameters depend, or the order of their elements.
SHAPING = ("num_heads", "positions", "rotary_layout", "rotary_fraction", *ORDERS)


class Models:
    """The models that the checkpoint `source` may hold.

    `options` are those of to_flax, `given` the fields that the user set.
    """

    def __init__(
        self, source: checkpoints.Checkpoint, options: Mapping[str, Any], given: Mapping[str, Any]
    ):
        # Values to read the file with, and all candidates, for fields without a usual value.
        self.placeholders: dict[str, Any] = {}
        self.candidates: dict[str, Sequence[Any]] = {}
        self._stated = {**options, **given}
        self._inspected = self._inspect(source)
        self._loaded = functools.lru_cache(maxsize=2)(self._load)

    @property
    def source(self) -> checkpoints.Checkpoint:
        """The checkpoint, without the names of modules around the model."""
        return self._inspected.source

    @functools.cached_property
    def config(self) -> ModelConfig:
        """The config with usual values and placeholders for the fields that are open."""
        return self._inspected.detected.report.config

    @property
    def asked(self) -> list[str]:
        """The fields without a usual value and without candidates."""
        return [name for name in self.placeholders if name not in self.candidates]

    @functools.cached_property
    def assumed(self) -> dict[str, Any]:
        """The usual values of open fields, also those that only some kind of positions uses."""
        assumed = self._inspected.detected.report.assumed
        if "positions" not in {**assumed, **self.candidates}:
            return assumed
        stated = {**self._stated, **self.placeholders}
        for kind in OPTIONS["positions"]:
            with contextlib.suppress(UserError):
                report = api.inspect(self.source, **{**stated, "positions": kind}).detected.report
                assumed = {**report.assumed, **assumed}
        return assumed

    def used(self, values: Mapping[str, Any]) -> list[str] | None:
        """The names of the fields of `values` that mean something together; None if impossible."""
        heads = values.get("num_heads", self.config.num_heads)
        sizes = {
            "num_heads": heads,
            "num_kv_heads": self.config.num_kv_heads * heads // self.config.num_heads,
            "head_dim": self.config.head_dim * self.config.num_heads // heads,
        }
        try:
            config = dataclasses.replace(self.config, **{**values, **sizes})
        except UserError:
            return None
        return [name for name in values if is_relevant(name, vars(config))]

    def of(self, values: Mapping[str, Any]) -> tuple[ModelConfig, Tree]:
        """Config and parameters of the model whose open fields have `values`."""
        shaping = {name: values[name] for name in SHAPING if name in values}
        config, params = self._loaded(tuple(shaping.items()))
        return dataclasses.replace(config, **values), params

    def _load(self, shaping: tuple[tuple[str, Any], ...]) -> tuple[ModelConfig, Tree]:
        """Config and parameters by the values of SHAPING."""
        stated = {**self._stated, **self.placeholders, **dict(shaping)}
        loaded = api.to_flax(self.source, dtype="float32", **stated)
        assert isinstance(loaded.config, ModelConfig)
        return loaded.config, model_directory.to_device(loaded.params)

    def _inspect(self, source: checkpoints.Checkpoint) -> api.Inspected:
        """Inspect `source`; the fields that it asks for get placeholders."""
        while True:
            try:
                return api.inspect(source, **self._stated, **self.placeholders)
            except Asked as asked:
                field, candidates = asked.field, asked.candidates
                if field in self._stated or not (candidates or field in PLACEHOLDERS):
                    raise
                if field == "num_heads":
                    candidates = by_likelihood(candidates)
                if candidates:
                    self.candidates[field] = candidates
                first = PLACEHOLDERS[field] if field in PLACEHOLDERS else candidates[0]
                self.placeholders[field] = first

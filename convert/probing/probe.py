"""Ranks the functions that a checkpoint may compute by their loss on text.

Fields that leave no trace in a file, such as the place of the norms or the number of heads, show
in the loss on text of the kind that the model was trained on.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxgpt.config import ModelConfig
from jaxgpt.errors import require
from jaxgpt.pytree import Tree
from jaxgpt.storage import model_directory

from .. import api
from ..detect.refusals import Asked
from ..files import checkpoints
from ..tokens.encode_text import require_known, spell
from .candidates import space_of
from .losses import LEFT_OUT, altered_losses, losses
from .ranking import Ranking, Row
from .search import Search
from .text_windows import bigram_loss, unigram_loss, windows_of

# Placeholders for fields without a usual value. A short context is safe, a long one is not:
# positions past the true context were never trained.
STANDING = {"num_heads": 1, "context_length": 32}


def probe(
    weights: checkpoints.Weights,
    *,
    text: str | None = None,
    ids: ArrayLike | None = None,
    tokenizer: str | Path | None = None,
    dialect: str | None = None,
    ignore_config: bool = False,
    tell: Callable[[str], Any] = lambda so_far: None,
    **fields: Any,
) -> Ranking:
    """Rank the values of the fields that `weights` leave open by their loss on a text.

    The text is given as `text`, the string itself, or as `ids`. Fields set in `fields` or recorded
    in the file or its config are not varied.
    """
    require(
        (text is None) != (ids is None),
        "probe takes a text (--text) or ids (--ids), one of the two.",
    )
    options = {"dialect": dialect, "ignore_config": ignore_config}
    models = Models(checkpoints.opened(weights), options, fields)
    config, source, assumed = models.config, models.inspected.source, models.assumed
    space = space_of(assumed, config.head_dim if "num_heads" in models.placeholders else 0)
    asked = [name for name in models.placeholders if name not in space.options]
    # Without a table of positions in the file, rotary ones would look the same.
    unnamed = "positions" in assumed
    if not space.options and not unnamed:
        return Ranking([], {}, {}, asked, 0, math.inf, "")
    spelled, spelling = np.asarray(ids), ""
    if text is not None:
        spelled, spelling = spell(text, source, config.vocab_size, tokenizer)
    require_known(spelled, config.vocab_size, source.path)
    windows = windows_of(spelled, config, source.path)
    rows = Search(space, lambda values: losses(*models.of(values), windows), tell).run()
    best = rows[0].fields
    altered = altered_losses(*models.of(best), windows)
    return Ranking(
        rows,
        space.options,
        {name: assumed[name] for name in space.options if name in assumed},
        asked,
        tokens=windows[:, 1:].size,
        entropy=unigram_loss(spelled),
        spelling=spelling,
        bigram=bigram_loss(spelled),
        altered={name: Row(best, each) for name, each in altered.items()},
        confirmable={"positions": (config.positions, LEFT_OUT)} if unnamed else {},
    )


# Fields on which shapes of parameters depend, or the order of their elements.
SHAPING = ("num_heads", "rotary_layout")


class Models:
    """The models that the checkpoint `source` may hold.

    `options` are those of to_flax, `given` the fields that the user set.
    """

    def __init__(
        self, source: checkpoints.Checkpoint, options: Mapping[str, Any], given: Mapping[str, Any]
    ):
        self.inspected, self.placeholders = _inspected(source, {**options, **given})
        self._stated = {**options, **given, **self.placeholders}
        self._loaded = functools.lru_cache(maxsize=2)(self._load)

    @property
    def config(self) -> ModelConfig:
        return self.inspected.detected.report.config

    @property
    def assumed(self) -> dict[str, Any]:
        return self.inspected.detected.report.assumed

    def of(self, values: Mapping[str, Any]) -> tuple[ModelConfig, Tree]:
        """Config and parameters of the model whose open fields have `values`."""
        shaping = {name: values[name] for name in SHAPING if name in values}
        config, params = self._loaded(tuple(shaping.items()))
        return dataclasses.replace(config, **values), params

    def _load(self, shaping: tuple[tuple[str, Any], ...]) -> tuple[ModelConfig, Tree]:
        """Config and parameters by the values of SHAPING."""
        stated = {**self._stated, **dict(shaping)}
        loaded = api.to_flax(self.inspected.source, dtype="float32", **stated)
        return loaded.config, model_directory.to_device(loaded.params)


def _inspected(
    source: checkpoints.Checkpoint, stated: Mapping[str, Any]
) -> tuple[api.Inspected, dict[str, Any]]:
    """The inspected `source`, and placeholders for the fields that it asks for."""
    placeholders: dict[str, Any] = {}
    while True:
        try:
            return api.inspect(source, **stated, **placeholders), placeholders
        except Asked as asked:
            if asked.field in {**stated, **placeholders}:
                raise
            placeholders[asked.field] = STANDING[asked.field]

"""Ranks the functions that a checkpoint may compute by their loss on text.

Fields that leave no trace in a file, such as the place of the norms or the number of heads, show
in the loss on text of the kind that the model was trained on.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxgpt.errors import require
from jaxgpt.model_config import ModelConfig

from ..files import checkpoints
from ..tokens.encode_text import encode_text, require_known
from .candidates import ALIKE, COMPENSATED, FIRST, GROUPS, options_of
from .losses import altered_losses, losses
from .models import Models
from .parts import SLIGHTLY
from .ranking import Ranking, Row
from .search import Search, Space
from .text_windows import bigram_loss, unigram_loss, windows_of


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
    in the file or its config are not varied. `tell` is called with a line on the progress so far.
    """
    require(
        (text is None) != (ids is None),
        "probe takes a text (--text) or ids (--ids), one of the two.",
    )
    options = {"dialect": dialect, "ignore_config": ignore_config}
    models = Models(checkpoints.opened(weights), options, fields)
    config, source, assumed = models.config, models.source, models.assumed
    require(
        isinstance(config, ModelConfig) and not config.cross_attention,
        f"{source.path} holds a decoder that attends to an encoder or another memory, which a text "
        "alone does not give. Its class settles all fields: jaxgpt-convert to-flax FILE DIR "
        "--torch MODULE:CLASS. Without the class, set them one by one with --set, and compare the "
        "loss that jaxgpt eval prints for pairs that the model knows.",
    )
    space = Space(options_of(assumed, config, models.candidates), FIRST, GROUPS, ALIKE, models.used)
    if not space.options:
        return Ranking([], {}, {}, models.asked, 0, math.inf, "")
    encoded, spelling = np.asarray(ids), ""
    if text is not None:
        encoded, spelling = encode_text(text, source, config.vocab_size, tokenizer)
    require_known(encoded, config.vocab_size, source.path)
    windows = windows_of(encoded, config, source.path)
    entropy, bigram = unigram_loss(encoded), bigram_loss(encoded)

    def measure(values: Mapping[str, Any]) -> np.ndarray:
        return losses(*models.of(values), windows)

    rows = Search(space, measure, tell, good=min(entropy, bigram)).run()
    best = rows[0].fields
    altered = altered_losses(*models.of(best), windows)
    return Ranking(
        rows,
        space.options,
        {name: assumed[name] for name in space.options if name in assumed},
        models.asked,
        tokens=windows[:, 1:].size,
        entropy=entropy,
        spelling=spelling,
        bigram=bigram,
        altered={name: Row(best, each) for name, each in altered.items()},
        adjusted=_adjusted(rows, models, windows),
    )


def _adjusted(rows: list[Row], models: Models, windows: np.ndarray) -> list[Row]:
    """Rows that differ from the best in one field, with the part resized that may compensate.

    Example: on a text that it knows less well, a model is too sure of itself. A bound of its logits
    that it never had would help, but so would smaller logits.
    """
    adjusted: list[Row] = []
    for row in rows[1:]:
        unlike = row.unlike(rows[0])
        if len(unlike) == 1 and unlike[0] in COMPENSATED:
            parts = [COMPENSATED[unlike[0]]]
            altered = altered_losses(*models.of(row.fields), windows, SLIGHTLY, parts)
            adjusted += [Row(row.fields, each) for each in altered.values()]
    return adjusted

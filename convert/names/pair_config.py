"""The words of a config that are about one side of an encoder-decoder."""

from collections.abc import Mapping
from typing import Any

from .config_words import SECTIONS

Config = Mapping[str, Any]
# In a word, each means one side, as in encoder_layers or num_encoder_layers.
SIDES = {
    "encoder": ("encoder_", "enc_", "source_", "src_"),
    "decoder": ("decoder_", "dec_", "target_", "tgt_", "trg_"),
}


def configs_of_side(configs: Mapping[str, Config], side: str) -> dict[str, Config]:
    """`configs` as those of a model with only this `side`: encoder_layers becomes layers."""
    return {where: _of_side(config, side) for where, config in configs.items()}


def _of_side(config: Config, side: str, depth: int = 0) -> Config:
    shared: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for word, value in config.items():
        if depth < 2 and word in SECTIONS and isinstance(value, dict):
            value = _of_side(value, side, depth + 1)
        which = side_of(word)
        if which is None:
            shared[word] = value
        elif which == side:
            own[without_side(word)] = value
    return {**shared, **own}


def side_of(word: Any) -> str | None:
    """The side that `word` is about; None if it is about both, or about none."""
    if not isinstance(word, str):
        return None
    named = (side for side, marks in SIDES.items() if any(mark in word for mark in marks))
    return next(named, None)


def without_side(word: str) -> str:
    """`word` without the part that names a side."""
    for mark in (mark for marks in SIDES.values() for mark in marks):
        word = word.replace(mark, "", 1)
    return word

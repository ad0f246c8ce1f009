"""The config of a model as sections of a config.json: `model`, and `encoder` for an
encoder-decoder."""

from collections.abc import Mapping
from typing import Any

from jaxgpt.config import ModelConfig
from jaxgpt.seq2seq_config import AnyConfig, Seq2SeqConfig
from jaxgpt.settings import build


def sections_of(config: AnyConfig) -> dict[str, dict[str, Any]]:
    """The sections that describe `config`."""
    if isinstance(config, Seq2SeqConfig):
        return {"model": vars(config.decoder), "encoder": vars(config.encoder)}
    return {"model": vars(config)}


def config_of(sections: Mapping[str, Any], where: str) -> Any:
    """The config that `sections` of the file `where` describe."""
    model = build(ModelConfig, sections["model"], where)
    if "encoder" not in sections:
        return model
    return Seq2SeqConfig(build(ModelConfig, sections["encoder"], where), model)

"""The fields of an encoder-decoder, which has those of a ModelConfig for each side."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxgpt.errors import require
from jaxgpt.model_config import ModelConfig

ENCODER = "encoder."  # precedes the names of an encoder's fields


@dataclass(frozen=True)
class Seq2SeqConfig:
    """The function that an encoder-decoder computes; each side has the fields of a ModelConfig.

    The encoder ignores the fields of the head.
    """

    encoder: ModelConfig
    decoder: ModelConfig

    def __post_init__(self) -> None:
        encoder, decoder = self.encoder, self.decoder
        require(
            decoder.cross_attention,
            "The decoder of an encoder-decoder needs cross_attention = true.",
        )
        require(
            not encoder.cross_attention,
            "cross_attention is a field of the decoder: an encoder has no memory to attend to.",
        )
        require(
            encoder.model_dim == decoder.model_dim,
            f"The encoder's model_dim {encoder.model_dim} must be the decoder's "
            f"{decoder.model_dim}, since cross-attention has one width for both.",
        )
        require(
            not decoder.shares_embedding,
            "shares_embedding is a field of the encoder, which then has the decoder's embedding.",
        )
        require(
            not encoder.shares_embedding or encoder.vocab_size == decoder.vocab_size,
            f"A shared embedding needs one vocabulary, but the encoder's vocab_size is "
            f"{encoder.vocab_size}, and the decoder's {decoder.vocab_size}.",
        )
        require(
            encoder.positions != "alibi",
            "An encoder cannot have positions = alibi, whose biases are for texts read in order.",
        )
        require(
            not any(encoder.by_layer("window")),
            "An encoder cannot have a window: each of its positions sees the whole source.",
        )


AnyConfig = ModelConfig | Seq2SeqConfig


def config_of(fields: Mapping[str, Any]) -> AnyConfig:
    """The config with `fields`; those of an encoder are named `encoder.FIELD`."""
    options = as_options(fields)
    encoder = options.pop("encoder", None)
    model = ModelConfig(**options)
    return Seq2SeqConfig(ModelConfig(**encoder), model) if encoder else model


def field_of(config: AnyConfig, name: str) -> Any:
    """The value of the field `name`, which is `encoder.FIELD` for an encoder."""
    if isinstance(config, ModelConfig):
        return getattr(config, name)
    encoder = name.startswith(ENCODER)
    return getattr(config.encoder if encoder else config.decoder, name.removeprefix(ENCODER))


def fields_of(config: AnyConfig) -> dict[str, Any]:
    """All fields of `config` by name, those of an encoder as `encoder.FIELD`."""
    if isinstance(config, ModelConfig):
        return dict(vars(config))
    encoder = {f"{ENCODER}{name}": value for name, value in vars(config.encoder).items()}
    return {**vars(config.decoder), **encoder}


def as_options(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` as keywords of a function: those of an encoder as the dict `encoder`."""
    decoder = {name: value for name, value in fields.items() if not name.startswith(ENCODER)}
    encoder = {name.removeprefix(ENCODER): fields[name] for name in fields.keys() - decoder.keys()}
    return {**decoder, "encoder": encoder} if encoder else decoder

"""The fields of an encoder-decoder: those of each side."""

from dataclasses import dataclass

from jaxgpt.errors import require
from jaxgpt.model_config import ModelConfig


@dataclass(frozen=True)
class Seq2SeqConfig:
    """The function that an encoder-decoder computes; each side has the fields of a ModelConfig.

    What belongs to a head means nothing for the encoder.
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

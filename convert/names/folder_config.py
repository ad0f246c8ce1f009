"""The config.json of a folder for a Hugging Face class, of a decoder or of an encoder-decoder."""

from typing import Any

from jaxgpt.seq2seq_config import AnyConfig

from ..rows.fields import OF_DECODERS
from ..rows.pair import AnyDialect, Pair, sides
from . import class_config


def config_words(dialect: AnyDialect, config: AnyConfig) -> tuple[dict[str, Any], list[str]]:
    """The content of config.json, and the fields of the model that the class does not support."""
    written: list[dict[str, Any]] = []
    problems: list[str] = []
    for side in sides(dialect, config):
        irrelevant = OF_DECODERS if side.field_prefix else ()
        words, wrong = class_config.config_words(side.dialect, side.config, irrelevant)
        written.append(words)
        problems += [f"{side.field_prefix}{problem}" for problem in wrong]
    if not isinstance(dialect, Pair):
        return written[0], problems
    encoder, decoder = written
    joined: dict[str, Any] = {"is_encoder_decoder": True}
    for word in dict.fromkeys([*encoder, *decoder]):
        values = [words[word] for words in written if word in words]
        if word in dialect.by_side.split():
            joined |= {f"encoder_{word}": encoder[word], f"decoder_{word}": decoder[word]}
        elif word in dialect.of_decoder.split():
            joined |= {word: encoder[word], f"decoder_{word}": decoder[word]}
        elif len(values) == 2 and values[0] != values[1]:
            problems.append(
                f"{word} would be {values[0]!r} for the encoder and {values[1]!r} for the decoder, "
                "but the class has one for both"
            )
        else:
            joined[word] = values[0]
    return joined, problems

"""An opened encoder-decoder: text of sources to ids, ids of targets to text, and their marks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.errors import UserError, require
from jaxgpt.generation.text import TextCodec
from jaxgpt.model.quantized import WeightsChoice
from jaxgpt.seq2seq_config import Seq2SeqConfig
from jaxgpt.storage.model_directory import ModelDirectory


@dataclass(frozen=True)
class PairOptions:
    """Options that override how the model directory converts text to ids and back.

    Attributes:
        tokenizer: The tokenizer of the sources, and of the targets unless they have their own.
        target_tokenizer: The tokenizer of the targets.
        errors: What to do with characters that a tokenizer lacks.
        start: The id that a target begins with; -1 takes that of the model.
        end: The id that a target ends with; -1 takes that of the model.
        weights: The weights as they are stored, or kernels in int8.
    """

    tokenizer: Path | None = None
    target_tokenizer: Path | None = None
    errors: Literal["strict", "skip"] = "strict"
    start: int = -1
    end: int = -1
    weights: WeightsChoice = "stored"


class Pair:
    """The codecs of an encoder-decoder, and the ids that its targets begin and end with."""

    def __init__(self, opened: ModelDirectory, options: PairOptions):
        self.options, self.config = options, opened.config
        self.source, self.target = TextCodec.of_pair(
            opened, options.tokenizer, options.target_tokenizer
        )
        self.start = _mark("start", options.start, opened, self.target.tokenizer)
        self.end = _mark("end", options.end, opened, self.target.tokenizer)

    def encode(self, sources: Sequence[str]) -> list[list[int]]:
        """The ids of each source; an empty one is refused."""
        rows = [self.source.encode(text, self.options.errors) for text in sources]
        for number, row in enumerate(rows, 1):
            which = f"Line {number} of the sources" if len(rows) > 1 else "The source"
            require(
                bool(row),
                f"{which} is empty: the encoder has nothing to read. Give each some text.",
            )
        return rows

    def target_ids(self) -> dict[str, Any]:
        """The keywords `start`, `end` and `allowed` of `translate`."""
        tokenizer, vocab_size = self.target.tokenizer, self.config.decoder.vocab_size
        allowed = tokenizer.decodable(vocab_size) if tokenizer else np.ones(vocab_size, bool)
        allowed[self.start], allowed[self.end] = False, True  # they may be the same id
        return {"start": self.start, "end": self.end, "allowed": allowed}


def _mark(
    name: Literal["start", "end"], asked: int, opened: ModelDirectory, tokenizer: Tokenizer | None
) -> int:
    """The id that targets start or end with: the one asked for, or else that of config.json.

    Without either, it is the tokenizer's end of text, or one of the two ids that
    `jaxgpt prepare` adds after the tokenizer's ids.
    """
    vocab_size = opened.config.decoder.vocab_size
    mark = opened.about.get(name) if asked < 0 else asked
    if mark is None and tokenizer is not None:
        mark = tokenizer.eot
        if mark is None:
            mark = tokenizer.vocab_size + ("start", "end").index(name)
    if mark is None:
        raise UserError(
            f"{opened.path} does not say with which id a text of its decoder {name}s: give it with "
            f"--{name} ID, from 0 to {vocab_size - 1}."
        )
    require(
        0 <= mark < vocab_size,
        f"A text would {name} with id {mark}, but the decoder in {opened.path} has ids 0 to "
        f"{vocab_size - 1}: give the right one with --{name}.",
    )
    return mark


def require_pair(opened: ModelDirectory) -> None:
    """Refuse a decoder, which reads no source."""
    require(
        isinstance(opened.config, Seq2SeqConfig),
        f"{opened.path} is a decoder, and reads no source: give it text with --prompt (jaxgpt "
        "sample) or --text (jaxgpt look). --source is for an encoder-decoder.",
    )


def require_decoder(opened: ModelDirectory) -> None:
    """Refuse an encoder-decoder, which needs a source, and a decoder that needs a memory."""
    require(
        not isinstance(opened.config, Seq2SeqConfig),
        f"{opened.path} is an encoder-decoder, and needs a source to read: --source TEXT, or for "
        "jaxgpt sample --source-file FILE with one on each line.",
    )
    require(
        not opened.config.cross_attention,
        f"{opened.path} is a decoder that attends to a memory from outside, which no command can "
        "give it: call jaxgpt.generate(model, ids, memory=array), or model(tokens, memory=array).",
    )

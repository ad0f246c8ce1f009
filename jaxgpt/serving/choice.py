"""One text of an answer while it is generated: the part that is final, and why it ended."""

import codecs
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgpt.generation.stream import NOTHING
from jaxgpt.generation.text import TextCodec, Writer


class Choice:
    """A text that ends at a stop, at an end of text, or at its last token."""

    def __init__(self, index: int, codec: TextCodec, stops: Sequence[str], limit: int):
        self.index, self.limit, self.writer = index, limit, Writer(codec, stops)
        self.codec, self.tokenizer = codec, codec.tokenizer
        self.tokens, self.finish_reason = 0, ""
        self.released = 0  # characters of the text that are final
        self.log = TokenLog(codec)

    def add(self, ids: np.ndarray, logprobs: np.ndarray) -> str:
        """Append `ids`, padded with NOTHING, and return the text that has become final."""
        text = ""
        for token, logprob in zip(ids.tolist(), logprobs.tolist(), strict=True):
            if self.finish_reason or token == NOTHING:
                break
            self.tokens += 1
            ended = self.tokenizer is not None and token == self.tokenizer.eot
            if not ended:
                self.log.add(token, logprob)
                text += self.writer.add(np.array([token]))
            if ended or self.writer.ended:
                self.finish_reason = "stop"
            elif self.tokens >= self.limit:
                self.finish_reason = "length"
        if self.finish_reason:
            text += self.writer.end()
        self.released += len(text)
        return text

    def logprobs(self) -> dict[str, Any]:
        """The tokens of the final text that no earlier call has returned."""
        return self.log.take(self.released)


class TokenLog:
    """The text, log-probability and offset of each token."""

    def __init__(self, codec: TextCodec):
        self.codec, self.length = codec, 0
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.entries: list[tuple[str, float, int]] = []

    def add(self, token: int, logprob: float) -> None:
        """Append a token at the end of the text so far."""
        text = self.codec.decode([token])
        self.entries.append((text, logprob, self.length))
        if self.codec.tokenizer is None:
            self.length += len(f" {text}")
        else:
            self.length += len(self.decoder.decode(self.codec.tokenizer.decode_bytes([token])))

    def take(self, length: int) -> dict[str, Any]:
        """Remove and return the tokens that begin before the character `length`."""
        count = sum(place < length for _, _, place in self.entries)
        taken, self.entries = self.entries[:count], self.entries[count:]
        return {
            "tokens": [text for text, _, _ in taken],
            "token_logprobs": [logprob for _, logprob, _ in taken],
            "top_logprobs": None,
            "text_offset": [place for _, _, place in taken],
        }

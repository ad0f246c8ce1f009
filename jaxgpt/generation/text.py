"""Text in and out: prompts to ids, and new ids to text as they are generated."""

import codecs
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxgpt.data.tokenizer import Tokenizer, Unencodable
from jaxgpt.errors import UserError, require
from jaxgpt.file_names import TARGET_TOKENIZER, TOKENIZER
from jaxgpt.storage.model_directory import ModelDirectory, load_tokenizer


class TextCodec:
    """Conversion between text and ids; without a tokenizer the text is a list of ids."""

    def __init__(self, tokenizer: Tokenizer | None, directory: Path):
        self.tokenizer, self.directory = tokenizer, directory
        self.start = tokenizer.start if tokenizer else 0

    @staticmethod
    def of(opened: ModelDirectory, file: Path | None) -> "TextCodec":
        """The codec of the tokenizer in `file`, or else of the model directory's own, if any."""
        return TextCodec._read(opened, file or _own(opened, TOKENIZER), opened.config.vocab_size)

    @staticmethod
    def of_pair(
        opened: ModelDirectory, file: Path | None, target_file: Path | None
    ) -> "tuple[TextCodec, TextCodec]":
        """The codecs of an encoder-decoder's sources and targets.

        They are those of `file` and `target_file`, or else the model directory's own; one tokenizer
        serves both where there is no other for the targets.
        """
        source = file or _own(opened, TOKENIZER)
        target = target_file or file or _own(opened, TARGET_TOKENIZER) or source
        sides = (source, opened.config.encoder), (target, opened.config.decoder)
        first, second = (TextCodec._read(opened, path, side.vocab_size) for path, side in sides)
        return first, second

    @staticmethod
    def _read(opened: ModelDirectory, file: Path | None, vocab_size: int) -> "TextCodec":
        if file is None:
            return TextCodec(None, opened.path)
        tokenizer = load_tokenizer(file)
        require(
            tokenizer.vocab_size <= vocab_size,
            f"The tokenizer {file} has {tokenizer.vocab_size} ids, but the model in "
            f"{opened.path} has {vocab_size}: it belongs to another model.",
        )
        return TextCodec(tokenizer, opened.path)

    def limits(self, vocab_size: int) -> dict[str, Any]:
        """The fields `allowed` and `stop_ids` of SampleOptions."""
        if self.tokenizer is None:
            return {}
        stop_ids = [] if self.tokenizer.eot is None else [self.tokenizer.eot]
        return {"allowed": self.tokenizer.decodable(vocab_size), "stop_ids": stop_ids}

    def encode(self, text: str, errors: Literal["strict", "skip"]) -> list[int]:
        """The ids of `text`; `errors` "skip" leaves out what the vocabulary cannot express."""
        if self.tokenizer:
            try:
                return self.tokenizer.encode(text, errors).tolist()
            except Unencodable as error:
                raise _unencodable(self.tokenizer, text, error) from None
        try:
            return [int(word) for word in text.replace(",", " ").split()]
        except ValueError:
            raise UserError(
                f"{self.directory} has no tokenizer, so a prompt is ids, like 0 29 59, but is "
                f"{text[:40]!r}. For text, name its tokenizer with --tokenizer: the run that it "
                "was trained in, a tokenizer.json, a list of characters as JSON, or nanoGPT's "
                "meta.pkl."
            ) from None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`."""
        return self.tokenizer.decode(ids) if self.tokenizer else " ".join(map(str, ids))


def _own(opened: ModelDirectory, name: str) -> Path | None:
    path = opened.path / name
    return path if path.exists() else None


def _unencodable(tokenizer: Tokenizer, text: str, error: Unencodable) -> UserError:
    """The error that names the first characters of `text` that `tokenizer` does not know."""
    unknown = [f"{c!r} (U+{ord(c):04X})" for c in tokenizer.unknown(text)] or [str(error)]
    more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
    return UserError(
        f"The text has characters that the {tokenizer.kind} tokenizer does not know: "
        f"{', '.join(unknown[:10])}{more}. Remove them, or skip them with --errors skip."
    )


class Writer:
    """Incremental decoder from ids to text that ends at the first of `stops`.

    An incomplete character, or the possible beginning of a stop, is withheld until more ids come.
    """

    def __init__(self, codec: TextCodec, stops: Sequence[str]):
        self.tokenizer, self.stops = codec.tokenizer, [stop for stop in stops if stop]
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.pending, self.ended = "", False

    def add(self, ids: np.ndarray) -> str:
        """The text that is certain once `ids` have been appended."""
        if self.ended:
            return ""
        if self.tokenizer is None:
            return "".join(f" {i}" for i in ids)
        eot = self.tokenizer.eot
        self.pending += self.decoder.decode(
            self.tokenizer.decode_bytes(ids[ids != eot] if eot is not None else ids)
        )
        matches = [
            (self.pending.find(stop) + len(stop), self.pending.find(stop))
            for stop in self.stops
            if stop in self.pending
        ]
        if matches:
            self.ended = True
            # The stop that was complete first, however the text was cut into pieces.
            return self._release(min(matches)[1])
        return self._release(len(self.pending) - max(map(self._begun, self.stops), default=0))

    def _begun(self, stop: str) -> int:
        """The number of characters at the end of the pending text that may begin `stop`."""
        return next(
            n
            for n in range(min(len(stop), len(self.pending)), -1, -1)
            if self.pending.endswith(stop[:n])
        )

    def _release(self, n: int) -> str:
        out, self.pending = self.pending[:n], "" if self.ended else self.pending[n:]
        return out

    def end(self) -> str:
        """The text still pending when no more ids come."""
        return "" if self.ended else self.pending + self.decoder.decode(b"", final=True)


def read_sources(source: str, file: Path | None) -> list[str]:
    """The source itself, or the lines of `file`; "-" as either means standard input."""
    text = read_prompt(source, file, "source")
    if file is None and source != "-":
        return [text]
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def read_prompt(prompt: str, file: Path | None, name: str = "prompt") -> str:
    """The prompt itself, or the content of `file`; "-" as either means standard input."""
    require(
        not prompt or file is None,
        f"A {name} comes from --{name} or from --{name}-file, not from both.",
    )
    if file is None and prompt != "-":
        return prompt
    standard = prompt == "-" or str(file) == "-"
    require(
        not standard or sys.stdin is not None,
        f"Standard input is closed, and the {name} should come from there.",
    )
    content = sys.stdin.buffer.read() if standard or file is None else file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = "Standard input" if standard else file
        raise UserError(f"{where} is not UTF-8 text: {error}. Convert it with iconv.") from None

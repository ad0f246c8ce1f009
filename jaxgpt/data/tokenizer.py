"""Tokenizers by character and by byte, and what all tokenizers have in common."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxgpt.errors import UserError, require


class Tokenizer(ABC):
    """Text to ids and back; each call of `encode` checks that the ids decode to the same text."""

    kind: str
    vocab_size: int
    eot: int | None = None  # the end-of-text id, if there is one
    _holes: Sequence[int] = ()  # unused ids below vocab_size

    @property
    def start(self) -> int:
        """The first id of a text generated without a prompt."""
        return 0 if self.eot is None else self.eot

    @abstractmethod
    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, perhaps with characters lost, which `encode_many` detects."""

    @abstractmethod
    def decode_bytes(self, ids: Any) -> bytes:
        """Bytes of each id, concatenated; chunks of a stream may end inside a UTF-8 character."""

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"kind": self.kind}) + "\n")

    def encode(self, text: str, errors: Literal["strict", "skip"] = "strict") -> np.ndarray:
        """Ids of `text`; `errors` "skip" leaves out what the vocabulary cannot express."""
        whole = text.encode("utf-8", "ignore").decode()
        return self.encode_many([text])[0] if errors == "strict" else self._encode([whole])[0]

    def unknown(self, text: str) -> list[str]:
        """The distinct characters of `text` that the vocabulary cannot express."""
        return [c for c in dict.fromkeys(text) if self.decode(self.encode(c, "skip")) != c]

    def decodable(self, vocab_size: int) -> np.ndarray:
        """Mask of the ids below `vocab_size` that decode to text."""
        ids = np.arange(vocab_size)
        return (ids < self.vocab_size) & ~np.isin(ids, self._holes)

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, as from `encode`; byte-pair merges run on all cores."""
        encoded = self._encode([text.encode("utf-8", "replace").decode() for text in texts])
        for which, (text, ids) in enumerate(zip(texts, encoded, strict=True)):
            # A lone surrogate was encoded as "?", so it is also reported as lost.
            before, after = text.encode("utf-8", "surrogatepass"), self.decode_bytes(ids)
            if before != after:
                same = next(
                    (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b),
                    len(after),
                )
                raise Unencodable(self, text, len(before[:same].decode("utf-8", "ignore")), which)
        return encoded

    def decode(self, ids: Any) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def text_bytes(self, ids: np.ndarray) -> int:
        """The number of UTF-8 bytes of the text of `ids`; an end of text counts as none."""
        return len(self.decode_bytes(ids if self.eot is None else ids[ids != self.eot]))

    def _in_vocabulary(self, ids: Any) -> np.ndarray:
        flat = np.asarray(ids).reshape(-1).astype(np.int64)
        wrong = (flat < 0) | (flat >= self.vocab_size) | np.isin(flat, self._holes)
        if wrong.any():
            at = int(wrong.argmax())
            raise UserError(
                f"Id {flat[at]} at position {at} is not in the {self.kind} tokenizer's "
                f"{self.vocab_size}; it comes from another tokenizer, or from a model with a "
                "larger vocabulary."
            )
        return flat


class Unencodable(UserError):
    """The error for text number `which`, which is lost or changed from character `position` on."""

    def __init__(self, tokenizer: Tokenizer, text: str, position: int, which: int):
        lost = (
            f"loses {text[position]!r} (U+{ord(text[position]):04X})"
            if position < len(text)
            else "adds to the end"
        )
        self.problem = f"the {tokenizer.kind} tokenizer of {tokenizer.vocab_size} ids {lost}"
        self.position, self.which = position, which
        super().__init__(
            f"At position {position} of the text {self.problem}. Leave it out, or use another "
            "tokenizer."
        )


class CharTokenizer(Tokenizer):
    kind = "char"

    def __init__(self, characters: Sequence[str]):
        """The tokenizer whose ids are the indices into `characters`."""
        for index, entry in enumerate(characters):
            single = (
                isinstance(entry, str) and len(entry) == 1 and not "\ud800" <= entry <= "\udfff"
            )
            require(
                single,
                f"Entry {index} of the character list is {entry!r}, which is not one character.",
            )
        different = len(set(characters))
        require(
            different > 0, "The character list is empty; a tokenizer needs at least one character."
        )
        require(
            different == len(characters),
            f"Of {len(characters)} characters only {different} are different.",
        )
        self.vocab_size = len(characters)
        self._codepoints = _codepoints("".join(characters))
        self._ids = np.full(0x110000, -1, np.int32)
        self._ids[self._codepoints] = np.arange(self.vocab_size)

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [ids[ids >= 0] for text in texts for ids in [self._ids[_codepoints(text)]]]

    def decode_bytes(self, ids: Any) -> bytes:
        return self._codepoints[self._in_vocabulary(ids)].tobytes().decode("utf-32-le").encode()

    def save(self, path: Path) -> None:
        path.write_text(
            json.dumps({"kind": self.kind, "characters": [*self.decode(range(self.vocab_size))]})
            + "\n"
        )


class ByteTokenizer(Tokenizer):
    kind = "byte"
    vocab_size = 256

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    def decode_bytes(self, ids: Any) -> bytes:
        return self._in_vocabulary(ids).astype(np.uint8).tobytes()


def train_char(texts: Iterable[str]) -> Tokenizer:
    """A tokenizer of the distinct characters of `texts`, sorted."""
    seen = np.zeros(0x110000, bool)
    for text in texts:
        seen[_codepoints(text)] = True
    return CharTokenizer([chr(codepoint) for codepoint in seen.nonzero()[0]])


def _codepoints(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")

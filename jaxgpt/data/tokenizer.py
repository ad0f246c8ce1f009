"""Tokenizers: text to ids and back, by character, by byte or by byte-pair merges."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxgpt.data import bpe, plain_pickle
from jaxgpt.errors import UserError, require
from jaxgpt.system.atomic_files import parse_json

KNOWN = (
    "jaxgpt knows its own and Hugging Face's tokenizer.json, vocab.json with merges.txt beside it, "
    'nanoGPT\'s meta.pkl, and characters as ["a", "b"], {"0": "a", "1": "b"} or {"a": 0, "b": 1}.'
)
META = "meta.pkl"
FILES = ("tokenizer.json", "vocab.json", META)  # in the order in which a folder is searched


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

    def means_something(self, vocab_size: int) -> np.ndarray:
        """Mask of the ids below `vocab_size` that decode to text."""
        ids = np.arange(vocab_size)
        return (ids < self.vocab_size) & ~np.isin(ids, self._holes)

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, as from `encode`; byte-pair merges run on all cores."""
        encoded = self._encode([text.encode("utf-8", "replace").decode() for text in texts])
        for which, (text, ids) in enumerate(zip(texts, encoded, strict=True)):
            # Half a surrogate pair was encoded as "?", so it is reported as lost, too.
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
    """The error for text `which` of several, lost or changed from character `position` on."""

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


MOST_IDS = 2**22  # a file may name any id, and memory is needed for all below it


class BpeTokenizer(Tokenizer):
    """Any tokenizer of the `tokenizers` library."""

    kind = "bpe"

    def __init__(self, library_tokenizer: Any):
        self._library = library_tokenizer
        self._library.encode_special_tokens = True  # "<|endoftext|>" inside a text is text
        self._library.no_truncation()
        self._library.no_padding()
        vocabulary = self._library.get_vocab()
        require(bool(vocabulary), "The tokenizer has an empty vocabulary.")
        self.vocab_size = max(vocabulary.values()) + 1
        require(
            self.vocab_size <= MOST_IDS,
            f"Its largest id is {self.vocab_size - 1}, but tokenizers have at most {MOST_IDS} ids.",
        )
        self.eot = next((vocabulary[name] for name in bpe.END_OF_TEXT if name in vocabulary), None)
        self._holes = sorted(set(range(self.vocab_size)) - set(vocabulary.values()))

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def decode_bytes(self, ids: Any) -> bytes:
        return b"".join(map(self._bytes.__getitem__, self._in_vocabulary(ids).tolist()))

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        """The bytes of each id, computed when first needed."""
        return bpe.token_bytes(self._library)

    def save(self, path: Path) -> None:
        self._library.save(str(path))


def load(path: Path) -> Tokenizer:
    """The tokenizer in the file `path`, or in the first of FILES in the folder `path`.

    A file is our own or Hugging Face's `tokenizer.json`, GPT-2's `vocab.json` next to `merges.txt`,
    nanoGPT's `meta.pkl`, or the characters in a form that tutorials use: ["a", "b"],
    {"0": "a", "1": "b"} or {"a": 0, "b": 1}.
    """
    if path.is_dir():
        path = next((path / name for name in FILES if (path / name).exists()), path)
    require(
        path.exists(), f"{path} does not exist; it should be a tokenizer, or a folder with one."
    )
    require(path.is_file(), f"{path} is no tokenizer: there is none of {', '.join(FILES)} in it.")
    with path.open("rb") as file:
        pickled = plain_pickle.is_pickle(path, file.read(1))
    content = None
    if not pickled:
        content = parse_json(path.read_bytes(), f"{path} is no tokenizer file, as it", KNOWN)
    try:
        if pickled:
            return CharTokenizer(_characters(plain_pickle.load(path)))
        return _from_json(content, path)
    except UserError as error:
        raise UserError(f"{path} is no tokenizer file: {error}") from None


def _characters(meta: Any) -> list[str]:
    """The characters in the order of their ids, from nanoGPT's dict `meta`."""
    require(
        isinstance(meta, dict), f"it holds a {type(meta).__name__}, no dict with stoi and itos."
    )
    stoi, itos = meta.get("stoi"), meta.get("itos")
    by_id = dict(enumerate(itos)) if isinstance(itos, list) else itos
    if by_id is None and isinstance(stoi, dict):
        by_id = {index: text for text, index in stoi.items() if isinstance(index, int)}
    require(isinstance(by_id, dict), "it has neither a dict stoi nor a dict itos.")
    count = len(by_id)
    same_ids = {*by_id} == {*range(count)}
    require(same_ids, f"the ids of its {count} characters are not 0 to {count - 1}.")
    characters = [by_id[index] for index in range(count)]
    for index, text in enumerate(characters):
        shown = ascii(text)[:40] if isinstance(text, str) else f"a {type(text).__name__}"
        single = isinstance(text, str) and len(text) == 1
        require(single, f"its id {index} stands for {shown}, which is not one character.")
    inverse = {text: index for index, text in enumerate(characters)}
    require(stoi in (None, inverse), f"its stoi and the {count} characters of its itos differ.")
    size = meta.get("vocab_size", count)
    fits = isinstance(size, int) and size >= count
    require(fits, f"its vocab_size is less than its {count} characters.")
    return characters


def _from_json(content: Any, path: Path) -> Tokenizer:
    if isinstance(content, list):
        return CharTokenizer(content)
    if isinstance(content, dict):
        if content.get("kind") == "byte":
            return ByteTokenizer()
        if isinstance(content.get("characters"), list):
            return CharTokenizer(content["characters"])
        if "model" in content:
            return BpeTokenizer(bpe.read(path))
        if {*content} == {str(index) for index in range(len(content))}:
            return CharTokenizer([content[str(index)] for index in range(len(content))])
        if path.with_name("merges.txt").is_file():
            return BpeTokenizer(bpe.read_pair(path, path.with_name("merges.txt")))
        if all(len(key) == 1 for key in content) and [*content.values()] == [*range(len(content))]:
            return CharTokenizer([*content])
    raise UserError(KNOWN)


def train_char(texts: Iterable[str]) -> Tokenizer:
    """A tokenizer of the distinct characters of `texts`, sorted."""
    seen = np.zeros(0x110000, bool)
    for text in texts:
        seen[_codepoints(text)] = True
    return CharTokenizer([chr(codepoint) for codepoint in seen.nonzero()[0]])


def train_bpe(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    return BpeTokenizer(bpe.train(texts, vocab_size))


def _codepoints(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")

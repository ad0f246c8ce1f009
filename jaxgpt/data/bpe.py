"""Byte-pair tokenizers of the `tokenizers` library.

The library calls a vocabulary byte-level if it has a character for every byte, so that any text can
be encoded.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.errors import UserError, in_a_row, require

# The end-of-text tokens of GPT-2, Llama 3, Llama 2 and Gemma.
END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
MOST_IDS = 2**22  # a file may use any id, and all ids below it take memory


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
        self.eot = next((vocabulary[name] for name in END_OF_TEXT if name in vocabulary), None)
        self._holes = sorted(set(range(self.vocab_size)) - set(vocabulary.values()))

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def decode_bytes(self, ids: Any) -> bytes:
        return b"".join(map(self._bytes.__getitem__, self._in_vocabulary(ids).tolist()))

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        """The bytes of each id, computed when first needed."""
        return _token_bytes(self._library)

    def save(self, path: Path) -> None:
        self._library.save(str(path))


def read(tokenizer_json: Path) -> BpeTokenizer:
    """The tokenizer in Hugging Face's one file."""
    import tokenizers

    tokenizer = _from_files(tokenizers.Tokenizer.from_file, tokenizer_json)
    largest = max(tokenizer.get_vocab().values(), default=0)
    require(largest < MOST_IDS, f"Its largest id is {largest}, but there can be {MOST_IDS} ids.")
    return BpeTokenizer(tokenizer)


def read_pair(vocab_json: Path, merges_txt: Path) -> BpeTokenizer:
    """The byte-level tokenizer in GPT-2's two files."""
    from tokenizers import models

    tokenizer = _byte_level(_from_files(models.BPE.from_file, vocab_json, merges_txt))
    tokenizer.add_special_tokens(
        [name for name in END_OF_TEXT[:1] if tokenizer.token_to_id(name) is not None]
    )
    return BpeTokenizer(tokenizer)


def train_bpe(texts: Iterator[str], vocab_size: int) -> BpeTokenizer:
    """Train byte-level merges up to `vocab_size` ids, or fewer where `texts` have no more pairs.

    Training takes up to 100 bytes of memory for each byte of the distinct words, and in scripts
    without spaces a whole sentence is a word, so `texts` should be a sample of limited size.
    """
    from tokenizers import models, pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(alphabet) + 1  # every byte, and the end of text
    require(
        vocab_size >= smallest,
        f"vocab_size {vocab_size} is too small: byte-pair merges take {smallest} or more.",
    )
    tokenizer = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=alphabet,
        special_tokens=[END_OF_TEXT[0]],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return BpeTokenizer(tokenizer)


def _token_bytes(library_tokenizer: Any) -> dict[int, bytes]:
    """The bytes of each id.

    The library decodes only to whole characters, but a stream of ids may be cut inside one.
    """
    vocabulary, decoder = library_tokenizer.get_vocab(), str(library_tokenizer.decoder)
    if "ByteLevel" in decoder:
        added = {token.content for token in library_tokenizer.get_added_tokens_decoder().values()}
        byte = byte_alphabet()
        return {
            i: token.encode()
            if token in added
            else b"".join(byte.get(c) or c.encode() for c in token)
            for token, i in vocabulary.items()
        }
    alone = {
        i: library_tokenizer.decode([i], skip_special_tokens=False) for i in vocabulary.values()
    }
    together = library_tokenizer.decode([*alone], skip_special_tokens=False)
    require(
        together == "".join(alone.values()) and "ByteFallback" not in decoder,
        f"In this tokenizer, whose decoder is {decoder}, the text of a token depends on its "
        "neighbours. That is not supported: use a byte-level tokenizer, such as GPT-2's.",
    )
    return {i: text.encode() for i, text in alone.items()}


def byte_alphabet() -> dict[str, bytes]:
    """The byte that each character of a byte-level vocabulary stands for.

    Printable bytes stand for themselves; the others become, in order, the characters from 256 on.
    """
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    printable = [ord(character) for character in alphabet if ord(character) < 256]
    others = sorted({*range(256)} - {*printable})
    return {
        character: bytes([byte])
        for character, byte in zip(alphabet, printable + others, strict=True)
    }


def _byte_level(model: Any) -> Any:
    import tokenizers

    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def _from_files(constructor: Callable[..., Any], *paths: Path) -> Any:
    try:
        return constructor(*map(str, paths))
    except Exception as error:  # the library has no narrower class
        message = in_a_row([" ".join(str(error).split())])
        raise UserError(
            f"the tokenizers library refuses {' with '.join(map(str, paths))}: {message}"
        ) from None

"""Byte-pair merges: the edge to the `tokenizers` library. Knows nothing of other tokenizers.

Byte level is its word for vocabularies that spell every byte as a character, so that no text is unknown to them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxgpt.config import UserError, require

END_OF_TEXT = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
)  # as GPT-2, Llama 3, Llama 2 and Gemma call it


def read(tokenizer_json: Path) -> Any:
    import tokenizers

    return _made(tokenizers.Tokenizer.from_file, tokenizer_json)


def read_pair(vocab_json: Path, merges_txt: Path) -> Any:
    """GPT-2's two files."""
    from tokenizers import models

    made = _byte_level(_made(models.BPE.from_file, vocab_json, merges_txt))
    made.add_special_tokens(
        [name for name in END_OF_TEXT[:1] if made.token_to_id(name) is not None]
    )
    return made


def train(texts: Iterator[str], vocab_size: int) -> Any:
    """Byte-level merges; fewer than asked where the texts have no more pairs. Takes up to 100 bytes of memory for each
    byte of the different words, and in writing without spaces a sentence is a word: give it no more than is needed."""
    from tokenizers import models, pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(alphabet) + 1  # every byte, and the end of text
    require(
        vocab_size >= least,
        f"vocab_size {vocab_size} is too small: byte-pair merges take {least} or more.",
    )
    made = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=alphabet,
        special_tokens=[END_OF_TEXT[0]],
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return made


def token_bytes(library_tokenizer: Any) -> dict[int, bytes]:
    """Of each id; the library decodes only to whole characters, and a stream is cut anywhere."""
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
        f"What a token is as text depends on its neighbours in this tokenizer, whose decoder is {decoder}. That is not "
        "supported: use one of byte level, as GPT-2 has.",
    )
    return {i: text.encode() for i, text in alone.items()}


def byte_alphabet() -> dict[str, bytes]:
    """Printable bytes stand for themselves; the others, in order, for the characters from 256 on."""
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

    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    return made


def _made(make: Callable[..., Any], *paths: Path) -> Any:
    try:
        return make(*map(str, paths))
    except Exception as error:  # the library has no narrower class
        said = " ".join(str(error).split())
        raise UserError(
            f"the tokenizers library refuses {' with '.join(map(str, paths))}: {said}"
        ) from None

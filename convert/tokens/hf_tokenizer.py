"""Tokenizers in Hugging Face folders: reads theirs, and writes ours for AutoTokenizer.

AutoTokenizer then gives the same ids. Independent of weights and models.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxgpt.data.bpe import byte_alphabet
from jaxgpt.data.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer
from jaxgpt.data.tokenizer_files import load
from jaxgpt.errors import UserError
from jaxgpt.file_names import META, TOKENIZER
from jaxgpt.system.json_files import write_json

from ..files.hf_folder import TOKENIZER_CONFIG, tokenizer_in
from ..names.config_words import characters

ROUNDED_UP = 128  # the largest number to a multiple of which vocabularies are padded
# The parts of a tokenizer.json that determine ids and text.
DECIDING = ("normalizer", "added_tokens", "pre_tokenizer", "model", "decoder")


class FileTokenizer(NamedTuple):
    """The tokenizer that came with the weights, or the reason why it cannot be used."""

    tokenizer: Tokenizer | None = None
    words: str = ""  # a sentence for the user
    problem: str = ""  # why an existing tokenizer cannot be used


def of_checkpoint(path: Path | None, extras: Mapping[str, Any], vocab_size: int) -> FileTokenizer:
    """The tokenizer at `path`, or the characters among the `extras` of the file.

    The file's own characters take precedence over a meta.pkl, which must fit `vocab_size`.
    """
    alphabet = characters(extras)
    alphabet = alphabet if len(alphabet) <= vocab_size else []
    pickled = path is not None and path.name == META
    if path and not (pickled and alphabet):
        try:
            loaded = read(path)
        except UserError as error:
            return FileTokenizer(problem=str(error))
        if pickled and not loaded.vocab_size <= vocab_size < loaded.vocab_size + ROUNDED_UP:
            sizes = f"{loaded.vocab_size} ids, and the model's vocabulary is {vocab_size}"
            return FileTokenizer(problem=f"{path} has {sizes}: it belongs to another model.")
        return FileTokenizer(
            loaded,
            f"Its tokenizer was stored too: {path.name}, {loaded.vocab_size} ids ({loaded.kind}).",
        )
    if not alphabet:
        return FileTokenizer()
    return FileTokenizer(
        CharTokenizer(alphabet),
        f"Its {len(alphabet)} characters, stored with the weights, are the tokenizer.",
    )


def read(path: Path) -> Tokenizer:
    """The tokenizer in a file or folder, of ours or of Hugging Face's.

    One that `write` wrote from characters or bytes is read as such again.
    """
    path = (tokenizer_in(path) or path) if path.is_dir() else path
    tokenizer = load(path)
    if tokenizer.kind != "bpe":
        return tokenizer
    content = json.loads(path.read_bytes())
    if "model" in content:
        return _ours(content) or tokenizer
    if lacking := byte_alphabet().keys() - content.keys():
        raise UserError(
            f"{path} has no token for {len(lacking)} of the 256 bytes: with its merges.txt it is "
            "another kind of tokenizer than GPT-2's. Save it as a tokenizer.json, which describes "
            "it completely."
        )
    return tokenizer


def _ours(content: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer of characters or bytes that `write` would write as `content`, if any."""
    vocabulary = content["model"].get("vocab")
    if not isinstance(vocabulary, dict) or any(len(word) != 1 for word in vocabulary):
        return None
    for candidate in (
        ByteTokenizer(),
        CharTokenizer(sorted(vocabulary, key=vocabulary.__getitem__)),
    ):
        written = json.loads(_library(candidate).to_str())
        if all(written[part] == content.get(part) for part in DECIDING):
            return candidate
    return None


def write(tokenizer: Tokenizer, folder: Path, context_length: int) -> None:
    """Write `tokenizer` to `folder`, for AutoTokenizer.

    It encodes text such as <|endoftext|> to that token, unless split_special_tokens is true.
    """
    if isinstance(tokenizer, CharTokenizer | ByteTokenizer):
        _library(tokenizer).save(str(folder / TOKENIZER))
    else:
        tokenizer.save(folder / TOKENIZER)
    ends = (
        {}
        if tokenizer.eot is None
        else dict.fromkeys(("bos_token", "eos_token"), tokenizer.decode([tokenizer.eot]))
    )
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # uses tokenizer.json unchanged
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / TOKENIZER_CONFIG, {**about, **ends})


def _library(tokenizer: CharTokenizer | ByteTokenizer) -> Any:
    """The equivalent in the `tokenizers` library; raises an error for characters without an id."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    if isinstance(tokenizer, ByteTokenizer):
        bytewise = {character: byte[0] for character, byte in byte_alphabet().items()}
        library = tokenizers.Tokenizer(models.BPE(vocab=bytewise, merges=[]))
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        library.decoder = decoders.ByteLevel()
        return library
    characters = tokenizer.decode(range(tokenizer.vocab_size))
    library = tokenizers.Tokenizer(
        models.WordLevel({character: i for i, character in enumerate(characters)})
    )
    library.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    library.decoder = decoders.Fuse()
    return library

"""Tokenizers in Hugging Face's folders: theirs taken along, ours written so that AutoTokenizer gives the same ids.

Knows no weights and no model.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxgpt.data.bpe import byte_alphabet
from jaxgpt.data.tokenizer import META, ByteTokenizer, CharTokenizer, Tokenizer, load
from jaxgpt.errors import UserError
from jaxgpt.system.atomic_files import write_json

from ..files.hf_folder import tokenizer_in
from ..names.config_words import characters

ROUNDED_UP = 128  # vocabularies are padded to a multiple of it at most
DECIDING = (
    "normalizer",
    "added_tokens",
    "pre_tokenizer",
    "model",
    "decoder",
)  # of ids and text, in a tokenizer.json


class Found(NamedTuple):
    """What came with the weights."""

    tokenizer: Tokenizer | None = None
    words: str = ""  # for people
    problem: str = ""  # why one that is there stays there


def beside(path: Path | None, extras: Mapping[str, Any], vocab_size: int) -> Found:
    """The tokenizer at `path`, or the characters among the `extras` of the file.

    A meta.pkl that nobody named gives way to the file's own characters, and must have the model's
    vocabulary.
    """
    held = characters(extras)
    held = held if len(held) <= vocab_size else []
    pickled = path is not None and path.name == META
    if path and not (pickled and held):
        try:
            found = read(path)
        except UserError as error:
            return Found(problem=str(error))
        if pickled and not found.vocab_size <= vocab_size < found.vocab_size + ROUNDED_UP:
            sizes = f"{found.vocab_size} ids, and the model's vocabulary is {vocab_size}"
            return Found(problem=f"{path} has {sizes}: it belongs to another model.")
        return Found(
            found, f"Its tokenizer came along: {path.name}, {found.vocab_size} ids ({found.kind})."
        )
    if not held:
        return Found()
    return Found(
        CharTokenizer(held),
        f"Its {len(held)} characters, which lay beside the weights, are the tokenizer.",
    )


def read(path: Path) -> Tokenizer:
    """Of a file or a folder, ours or theirs; characters or bytes that `write` wrote are again what they were."""
    path = (tokenizer_in(path) or path) if path.is_dir() else path
    found = load(path)
    if found.kind != "bpe":
        return found
    content = json.loads(path.read_bytes())
    if "model" in content:
        return _ours(content) or found
    if lacking := byte_alphabet().keys() - content.keys():
        raise UserError(
            f"{path} has no token for {len(lacking)} of the 256 bytes: with its merges.txt it is another kind of "
            "tokenizer than GPT-2's. Save it as a tokenizer.json, which says all of its kind."
        )
    return found


def _ours(content: dict[str, Any]) -> Tokenizer | None:
    vocabulary = content["model"].get("vocab")
    if not isinstance(vocabulary, dict) or any(len(word) != 1 for word in vocabulary):
        return None
    for candidate in (
        ByteTokenizer(),
        CharTokenizer(sorted(vocabulary, key=vocabulary.__getitem__)),
    ):
        made = json.loads(_library(candidate).to_str())
        if all(made[part] == content.get(part) for part in DECIDING):
            return candidate
    return None


def write(tokenizer: Tokenizer, folder: Path, context_length: int) -> None:
    """Text such as <|endoftext|> is that token to AutoTokenizer, unless one says split_special_tokens=True."""
    if isinstance(tokenizer, CharTokenizer | ByteTokenizer):
        _library(tokenizer).save(str(folder / "tokenizer.json"))
    else:
        tokenizer.save(folder / "tokenizer.json")
    ends = (
        {}
        if tokenizer.eot is None
        else dict.fromkeys(("bos_token", "eos_token"), tokenizer.decode([tokenizer.eot]))
    )
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # which takes the tokenizer.json as it is
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", {**about, **ends})


def _library(tokenizer: CharTokenizer | ByteTokenizer) -> Any:
    """The same ids from the `tokenizers` library, which raises an error where a character has none."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    if isinstance(tokenizer, ByteTokenizer):
        bytewise = {character: byte[0] for character, byte in byte_alphabet().items()}
        made = tokenizers.Tokenizer(models.BPE(vocab=bytewise, merges=[]))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.decoder = decoders.ByteLevel()
        return made
    characters = tokenizer.decode(range(tokenizer.vocab_size))
    made = tokenizers.Tokenizer(
        models.WordLevel({character: i for i, character in enumerate(characters)})
    )
    made.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    return made

"""Files with a tokenizer: our own, Hugging Face's, GPT-2's, nanoGPT's and those of tutorials."""

from pathlib import Path
from typing import Any

from jaxgpt.data import bpe, plain_pickle
from jaxgpt.data.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer
from jaxgpt.errors import UserError, require
from jaxgpt.file_names import MERGES, META, TOKENIZER, VOCABULARY
from jaxgpt.system.json_files import parse_json

KNOWN = (
    "jaxgpt reads its own and Hugging Face's tokenizer.json, vocab.json next to merges.txt, "
    'nanoGPT\'s meta.pkl, and characters as ["a", "b"], {"0": "a", "1": "b"} or {"a": 0, "b": 1}.'
)
FILES = (TOKENIZER, VOCABULARY, META)  # in the order in which they are looked for in a folder


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
    require(path.is_file(), f"{path} holds no tokenizer: it has none of {', '.join(FILES)}.")
    with path.open("rb") as file:
        pickled = plain_pickle.is_pickle(path, file.read(1))
    content = None
    if not pickled:
        content = parse_json(path.read_bytes(), f"{path} is not a tokenizer file, as it", KNOWN)
    try:
        if pickled:
            return CharTokenizer(_characters(plain_pickle.load(path)))
        return _from_json(content, path)
    except UserError as error:
        raise UserError(f"{path} is not a tokenizer file: {error}") from None


def ready_made(choice: str) -> Tokenizer:
    """The tokenizer `choice`: byte, or a path; unlike char and bpe, it is not made from a text."""
    if choice == "byte":
        return ByteTokenizer()
    require(
        Path(choice).exists(),
        f"There is no tokenizer {choice}: name char, byte, bpe, a file or a folder.",
    )
    return load(Path(choice))


def _characters(meta: Any) -> list[str]:
    """The characters in the order of their ids, from nanoGPT's dict `meta`."""
    require(
        isinstance(meta, dict), f"it holds a {type(meta).__name__}, not a dict with stoi and itos."
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
            return bpe.read(path)
        if {*content} == {str(index) for index in range(len(content))}:
            return CharTokenizer([content[str(index)] for index in range(len(content))])
        if path.with_name(MERGES).is_file():
            return bpe.read_pair(path, path.with_name(MERGES))
        if all(len(key) == 1 for key in content) and [*content.values()] == [*range(len(content))]:
            return CharTokenizer([*content])
    raise UserError(KNOWN)

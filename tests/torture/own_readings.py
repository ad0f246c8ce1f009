"""What the project reads of tokenizers and of its own files, and whether other readers agree."""

import contextlib
import io
import json
import pickle
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from tests.torture.readings import Value, plain

TEXT = "a cab, a bad cab \n"


def tokenizer(path: Path) -> Value:
    """The number of ids, the ids of a text, and the text of ids."""
    from jaxgpt.data.tokenizer_files import load

    loaded = load(path)
    ids = loaded.encode(TEXT, "skip")
    return {"size": loaded.vocab_size, "ids": ids.tolist(), "text": loaded.decode(ids)}


def characters_agree(value: Value, path: Path) -> bool:
    content = json.loads(path.read_bytes())
    if isinstance(content, dict) and content.get("kind") == "byte":
        return value["ids"] == [*TEXT.encode()]
    return _characters_are(
        value, content.get("characters", content) if isinstance(content, dict) else content
    )


def meta_agrees(value: Value, path: Path) -> bool:
    class Plain(pickle._Unpickler):  # the one in C allocates gigabytes for a large memo index
        def find_class(self, module: str, name: str) -> Any:
            raise ValueError(f"{module}.{name} is in a pickle that was read")

    with path.open("rb") as file:
        meta = Plain(file).load()
    characters = (
        meta["itos"] if meta.get("itos") is not None else {i: c for c, i in meta["stoi"].items()}
    )
    return _characters_are(value, characters)


def _characters_are(value: Value, characters: Any) -> bool:
    if isinstance(characters, dict):
        characters = [one for _, one in sorted(characters.items(), key=lambda item: int(item[0]))]
    ids = [characters.index(one) for one in TEXT if one in characters]
    return value["size"] == len(characters) and value["ids"] == ids


def tokenizers_agree(value: Value, path: Path) -> bool:
    import tokenizers

    library = tokenizers.Tokenizer.from_file(str(path))
    library.encode_special_tokens = True
    library.no_truncation()
    library.no_padding()
    size = max(library.get_vocab().values()) + 1
    ids = library.encode(TEXT, add_special_tokens=False).ids
    return (value["size"], value["ids"]) == (size, ids)


def vocabulary_agrees(value: Value, path: Path) -> bool:
    """Every id is one of the vocabulary."""
    vocabulary = json.loads((path / "vocab.json").read_bytes())
    return {*value["ids"]} <= {*vocabulary.values()}


def toml_settings(path: Path) -> Value:
    from jaxgpt.settings import build_run, read_settings

    sections = read_settings(path, {})
    build_run(sections, str(path))
    return sections


def toml_agrees(value: Value, path: Path) -> bool:
    return plain(value) == plain(tomllib.loads(path.read_text("utf-8")))


def data(path: Path) -> Value:
    from jaxgpt.data.tokens import open_dataset

    opened = open_dataset(path)
    return plain([opened.vocab_size, opened.train, opened.val, opened.val_bytes])


def data_without_checksums(path: Path) -> Value:
    """The ids of both splits, whatever the manifest says."""
    from jaxgpt.data.tokens import open_dataset

    opened = open_dataset(path, verify=False)
    return [np.array(opened.train), np.array(opened.val)]


def ids_agree(value: Value, path: Path) -> bool:
    """The ids are the bytes of the files after the header."""
    files = [(path / name).read_bytes()[512:] for name in ("train.bin", "val.bin")]
    return [ids.tobytes() for ids in value] == files


def model(path: Path) -> Value:
    """The config, the parameters and the tokenizer's ids."""
    from jaxgpt.storage import model_directory

    opened = model_directory.ModelDirectory(path)
    ids = model_directory.load_tokenizer(path).encode("wood", "skip")
    return [plain(vars(opened.config)), plain(opened.params()), ids.tolist()]


def checkpoint_folder(path: Path) -> Value:
    """A model with the moments of its optimiser."""
    from jaxgpt.storage import model_directory

    moments = model_directory.ModelDirectory(path).moments()
    return [*model(path), plain(moments)]


def run_folder(path: Path) -> Value:
    """The metrics, after `jaxgpt runs` has listed the run and its best checkpoint has been sought."""
    from jaxgpt.commands.runs import runs
    from jaxgpt.storage import run_directory

    with contextlib.redirect_stdout(io.StringIO()):
        runs(path.parent)
    run_directory.best(path)
    return run_directory.read_metrics(path)


def metrics_agree(value: Value, path: Path) -> bool:
    """The lines that were read are in the file, in the same order."""
    rest = iter((path / "metrics.jsonl").read_text("utf-8", "replace").splitlines())
    return all(any(_same_line(one, line) for line in rest) for one in value)


def _same_line(value: Value, line: str) -> bool:
    try:
        return plain(json.loads(line)) == plain(value)
    except (ValueError, RecursionError):
        return False


def is_a_model(value: Value, path: Path) -> bool:
    """There are parameters; a forger who recomputes the checksums may choose their values."""
    return isinstance(value[1], dict)

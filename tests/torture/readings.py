"""What the project reads of a file, and what an independent reader has to say to it.

Every function `..._agrees` takes the value that the project read, and the path.
"""

import contextlib
import io
import json
import pickle
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

Value = Any
TEXT = "a cab, a bad cab \n"


def plain(value: Any, depth: int = 0) -> Any:
    """`value` with arrays as (dtype, shape, bytes), so that equal values compare as equal."""
    if depth > 50:
        return "..."
    if type(value).__module__.startswith("torch") and hasattr(value, "detach"):
        return of_tensor(value)
    if isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        return str(array.dtype), np.shape(value), array.tobytes()
    if isinstance(value, dict):
        return {repr(key): plain(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(one, depth + 1) for one in value]
    return repr(value)  # so that nan equals nan, and 1 is not True


def of_tensor(tensor: Any) -> tuple[str, tuple[int, ...], bytes]:
    """The tensor as `plain` writes an array."""
    import torch

    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    name = str(tensor.dtype).removeprefix("torch.")
    return name, tuple(tensor.shape), flat.view(torch.uint8).numpy().tobytes()


def checkpoint_file(path: Path) -> Value:
    """The tensors by their names in the file, the key that they are under, and the rest."""
    from convert.files import checkpoints

    opened = checkpoints.read(path)
    tensors = {opened.prefix + name: plain(one.read()) for name, one in opened.tensors.items()}
    return {"tensors": tensors, "nested": opened.nested, "extras": plain(opened.extras)}


def torch_agrees(value: Value, path: Path) -> bool:
    import torch

    root = torch.load(path, map_location="cpu", weights_only=True)
    state = root[value["nested"]] if value["nested"] else root
    named = {name: one for name, one in state.items() if isinstance(name, str)}
    theirs = {name: of_tensor(one) for name, one in named.items() if torch.is_tensor(one)}
    rest = {key: one for key, one in root.items() if key not in (value["nested"], *theirs)}
    if not value["nested"]:
        rest = {key: one for key, one in root.items() if key not in theirs}
    return value["tensors"] == theirs and value["extras"] == plain(rest)


def converted(path: Path) -> Value:
    """The tensors of the file, brought over and taken back."""
    import convert

    loaded = convert.to_flax(path, num_heads=2)
    back = convert.to_torch(loaded.params, loaded.config, loaded.dialect)
    return {loaded.source.prefix + name: plain(one) for name, one in back.items()}


def torch_agrees_on_tensors(value: Value, path: Path) -> bool:
    import torch

    root = torch.load(path, map_location="cpu", weights_only=True)
    state = {"": root, **root}
    return any(
        value == {name: of_tensor(one) for name, one in each.items() if torch.is_tensor(one)}
        for each in state.values()
        if isinstance(each, dict)
    )


def safetensors_agrees(value: Value, path: Path) -> bool:
    from safetensors.torch import load_file

    return value["tensors"] == {name: of_tensor(one) for name, one in load_file(path).items()}


def shards_agree(value: Value, path: Path) -> bool:
    from safetensors.torch import load_file

    index = json.loads((path / "model.safetensors.index.json").read_bytes())
    theirs = {}
    for file in set(index["weight_map"].values()):
        theirs |= {name: of_tensor(one) for name, one in load_file(path / file).items()}
    return value["tensors"] == theirs and index["weight_map"].keys() <= theirs.keys()


def llmc_agrees(value: Value, path: Path) -> bool:
    """The tensors, one after the other, are the file after its header."""
    content = path.read_bytes()
    heads = int(np.frombuffer(content[:1024], "<i4")[5])
    joined = b"".join(data for _, _, data in value["tensors"].values())
    return joined == content[1024:] and value["extras"]["'config'"]["'n_head'"] == repr(heads)


def msgpack_agrees(value: Value, path: Path) -> bool:
    """The same arrays, as Flax reads them; which are transposed is for other tests."""
    from flax import serialization

    tree = serialization.msgpack_restore(path.read_bytes())
    theirs, waiting = [], [("", tree)]
    while waiting:
        key, node = waiting.pop()
        if isinstance(node, dict):
            waiting += node.items()
        else:
            theirs.append(plain(np.ascontiguousarray(node.T) if key == "kernel" else node))
    return sorted(theirs) == sorted(value["tensors"].values())


def config_json(path: Path) -> Value:
    """What the folder's config says, once a conversion that uses it has been tried."""
    from convert.api import inspect
    from convert.files import checkpoints

    inspect(path)
    return checkpoints.read(path).config


def json_agrees(value: Value, path: Path) -> bool:
    return plain(value) == plain(json.loads((path / "config.json").read_bytes()))


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
    return {*value["ids"]} <= {*vocabulary.values(), 0}


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
    """The metrics, after `jaxgpt runs` has listed the run, and its best checkpoint was looked for."""
    from jaxgpt.commands.runs import runs
    from jaxgpt.storage import run_directory

    with contextlib.redirect_stdout(io.StringIO()):
        runs(path.parent)
    run_directory.best(path)
    return run_directory.read_metrics(path)


def metrics_agree(value: Value, path: Path) -> bool:
    """Each line that was read is in the file, in its order."""
    rest = iter((path / "metrics.jsonl").read_text("utf-8", "replace").splitlines())
    return all(any(_same_line(one, line) for line in rest) for one in value)


def _same_line(value: Value, line: str) -> bool:
    try:
        return plain(json.loads(line)) == plain(value)
    except (ValueError, RecursionError):
        return False


def is_a_model(value: Value, path: Path) -> bool:
    """The parameters are arrays of some numbers; who rewrites checksums may choose which."""
    return isinstance(value[1], dict)

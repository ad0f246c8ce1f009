"""What the project reads of foreign checkpoints, and whether an independent reader agrees.

Every function `..._agrees` takes what the project read, and the path.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

Value = Any


def plain(value: Any, depth: int = 0) -> Any:
    """`value` with arrays as (dtype, shape, bytes), so that equal values compare equal."""
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
    """`tensor` in the form that `plain` gives to arrays."""
    import torch

    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    name = str(tensor.dtype).removeprefix("torch.")
    return name, tuple(tensor.shape), flat.view(torch.uint8).numpy().tobytes()


def checkpoint_file(path: Path) -> Value:
    """The tensors by their names in the file, the key above them, and the rest of the file."""
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
    """The tensors of the file, after conversion to flax and back."""
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
    """The tensors, one after another, are the bytes after the header."""
    content = path.read_bytes()
    heads = int(np.frombuffer(content[:1024], "<i4")[5])
    joined = b"".join(data for _, _, data in value["tensors"].values())
    return joined == content[1024:] and value["extras"]["'config'"]["'n_head'"] == repr(heads)


def msgpack_agrees(value: Value, path: Path) -> bool:
    """Flax reads the same arrays; other tests check which of them are transposed."""
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
    """The folder's config, after `inspect` has used it."""
    from convert.api import inspect
    from convert.files import checkpoints

    inspect(path)
    return checkpoints.read(path).config


def json_agrees(value: Value, path: Path) -> bool:
    return plain(value) == plain(json.loads((path / "config.json").read_bytes()))

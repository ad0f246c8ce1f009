"""Checkpoint files of every format, read lazily.

Independent of dialects and models.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.errors import UserError, in_a_row, system_error
from jaxgpt.file_names import META
from jaxgpt.system.unchanged import NO_FILES, Unchanged

from .. import dtypes
from . import hf_folder, shards, torchfile
from .configs_beside import configs_beside
from .contents import Contents, Tensor
from .one_file import open_file
from .torch_tensors import aliasing, described_in_memory
from .wrappers import LIGHTNING_WRAPPERS, WRAPPERS, choose, wrapping

DTYPES = {*dtypes.BY_NAME.values()}


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint, with tensor names as in its model."""

    path: Path | str  # or a description, if the source is not a file
    container: str
    nested: str  # the key of the state dict, "" at the root
    prefix: str  # what was removed from the start of every name
    tensors: dict[str, Tensor] = field(repr=False)  # in the file's order
    extras: dict[Any, Any] = field(repr=False)  # what the file holds besides the state dict
    aside: tuple[str, ...] = ()  # other files with the same weights, which were not read
    tokenizer: Path | None = None  # that of a folder, or nanoGPT's meta.pkl next to the file
    files: Unchanged = field(default=NO_FILES, repr=False)  # the files that hold all of this
    sequential: bool = False  # whether tensors in another order take much longer to read

    @property
    def config(self) -> Mapping[str, Any]:
        """The config.json in the same folder; {} without one."""
        return hf_folder.config_beside(self.path) if isinstance(self.path, Path) else {}

    @property
    def token_ids(self) -> dict[str, Any]:
        """The ids of special tokens in the config.json in the same folder, by its words."""
        return {word: id_ for word, id_ in self.config.items() if str(word).endswith("_token_id")}

    @property
    def configs(self) -> dict[str, Mapping[str, Any]]:
        """The configs in the file and in its folder, by the name that errors call them."""
        beside = (
            configs_beside(self.path) if isinstance(self.path, Path) else {hf_folder.CONFIG: {}}
        )
        return {"the file": self.extras, **beside}

    def without(self, prefix: str) -> "Checkpoint":
        """The same checkpoint with `prefix`, which every name has, removed from the names."""
        tensors = {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items()}
        return replace(self, prefix=self.prefix + prefix, tensors=tensors)


# A path, an opened checkpoint, a state dict, or a torch module (Any, because torch is optional).
Weights = str | Path | Checkpoint | Mapping[str, Any] | Any


def opened(weights: Weights) -> Checkpoint:
    """The checkpoint in a file or a folder, in a dict of torch tensors, or in a torch module."""
    if isinstance(weights, Checkpoint):
        return weights
    if isinstance(weights, (str, Path)):
        return read(weights)
    state_dict = getattr(weights, "state_dict", None)
    weights = state_dict() if callable(state_dict) else weights
    if not isinstance(weights, Mapping):
        raise UserError(
            "Weights are the path of a checkpoint, a state_dict, or a torch module that has one, "
            f"but got a {type(weights).__name__}."
        )
    return _in_memory(dict(weights))


def _in_memory(root: dict[Any, Any]) -> Checkpoint:
    """The checkpoint in a state dict, or in a dict that nests one as files do.

    Each reading of a tensor copies it.
    """
    name = "the state_dict"
    torchfile.need_torch(name)
    nested, state, extras = choose(root, name)
    tensors = described_in_memory(state, name)
    return _checkpoint(name, Contents("torch, in memory", tensors, extras, nested))


def read(path: str | Path) -> Checkpoint:
    """The checkpoint at `path`, a file or a folder with weights in it.

    Names, shapes and dtypes are read at once, weights only on access.
    """
    path = Path(path)
    try:
        if path.is_dir():
            tokenizer = hf_folder.tokenizer_in(path)
            path, aside = hf_folder.find(path)
        else:
            meta = path.parent / META
            tokenizer, aside = meta if meta.is_file() else None, []
        is_index = path.name.endswith(hf_folder.INDEX)
        contents = shards.open_index(path) if is_index else open_file(path)
    except OSError as error:
        reason = system_error(error)
        raise type(reason)(f"{path} cannot be read: {reason}") from None
    checkpoint = _checkpoint(path, contents)
    return replace(checkpoint, aside=tuple(file.name for file in aside), tokenizer=tokenizer)


def _checkpoint(path: Path | str, contents: Contents) -> Checkpoint:
    """The checkpoint of `contents`, without what wrappers put before all names."""
    tensors = contents.tensors
    if not tensors:
        raise UserError(f"{path} holds no tensors.")
    require_dtypes({name: tensor.dtype for name, tensor in tensors.items()}, DTYPES, path)
    wrappers = LIGHTNING_WRAPPERS if contents.nested == "state_dict" else WRAPPERS
    prefix = wrapping(list(tensors), wrappers)
    return Checkpoint(
        path,
        contents.container,
        contents.nested,
        "",
        tensors,
        contents.extras,
        files=contents.files,
        sequential=contents.sequential,
    ).without(prefix)


def require_dtypes(dtypes: Mapping[str, object], allowed: set[np.dtype], path: object) -> None:
    """Refuse tensors whose dtype is not `allowed`; `dtypes` is by name."""
    odd = [f"{name} is {dtype}" for name, dtype in dtypes.items() if dtype not in allowed]
    if odd:
        raise UserError(
            f"{path}: {in_a_row(odd)}; supported dtypes are "
            f"{', '.join(sorted(map(str, allowed)))}. Convert them in the program that made them, "
            "for instance with tensor.float()."
        )


def to_tensor(array: np.ndarray) -> Any:
    """A torch tensor with memory of its own.

    The copy is needed because torch changes tensors in place, and jax relies on constant arrays.
    """
    return aliasing(np.array(array, order="C"))

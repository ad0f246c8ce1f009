"""Weights in several files, listed in an index as Hugging Face writes it."""

import functools
from collections.abc import Collection
from pathlib import Path

import numpy as np

from jaxgpt.errors import UserError, in_a_row
from jaxgpt.system.unchanged import Unchanged

from . import flax_msgpack, hf_folder
from .contents import Contents, Tensor
from .one_file import open_file

EMPTY = Contents("", {})


def open_index(index: Path) -> Contents:
    """The tensors of all files in `index`, each of which is read from its own file."""
    names_by_file, shards = hf_folder.shards(index), Shards()
    tensors: dict[str, Tensor] = {}
    container = nested = ""
    for file, names in names_by_file.items():
        own = shards.tensors(index.parent / file)
        if shards.opened.container == flax_msgpack.CONTAINER:
            names = flax_msgpack.torch_names([tuple(name.split("/")) for name in names])
        _require_as_listed(index, names, file, own.keys(), tensors.keys())
        tensors |= own
        container, nested = shards.opened.container, shards.opened.nested
    return Contents(
        f"{container} in {len(names_by_file)} shards",
        tensors,
        nested=nested,
        sequential=container.startswith("torch"),  # all of a shard is checked when it is opened
    )


def _require_as_listed(
    index: Path, names: list[str], file: str, own: Collection[str], others: Collection[str]
) -> None:
    """Raise UserError unless `own`, the tensors in `file`, has `names` and none of `others`."""
    if lacking := sorted(set(names) - set(own)):
        raise UserError(
            f"{index} says that {in_a_row(lacking, ', ')} is in {in_a_row([file])}, but it is not. "
            "Download the folder again."
        )
    if double := sorted(set(own) & set(others)):
        raise UserError(
            f"{index}: {in_a_row(double, ', ')} is in more than one of its shards. Download the "
            "folder again."
        )


class Shards:
    """Several files, only one of them open at a time; reading in order opens each once."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._files: dict[Path, Unchanged] = {}  # as they were when they were first opened
        self.opened = EMPTY

    def open(self, path: Path) -> Contents:
        if path != self._path:
            self._path, self.opened = None, EMPTY  # closes the previous file
            first = self._files.setdefault(path, Unchanged([path]))
            self.opened = open_file(path)
            first.require()
            self._path = path
        return self.opened

    def tensors(self, path: Path) -> dict[str, Tensor]:
        """The tensors in the file at `path`, which is opened again when one of them is read."""
        return {
            name: Tensor(tensor.shape, tensor.dtype, functools.partial(self.read, path, name))
            for name, tensor in self.open(path).tensors.items()
        }

    def read(self, path: Path, name: str) -> np.ndarray:
        opened = self.open(path)
        array = opened.tensors[name].read()
        if not opened.container.startswith("torch"):
            return array
        copy = array.copy()  # an array mapped by torch would keep its file open
        copy.flags.writeable = False
        return copy

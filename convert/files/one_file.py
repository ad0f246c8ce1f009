"""Opens one checkpoint file; its first bytes decide the format, not its name."""

import functools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxgpt.errors import UserError, in_a_row
from jaxgpt.system.unchanged import Unchanged

from . import flax_msgpack, llmc, msgpack_reader, safefile, torchfile
from .contents import Contents, Tensor
from .torch_tensors import described
from .untrusted import RESAVE, Ledger
from .wrappers import choose

HEAD = 256  # bytes that are enough to tell the formats apart


def open_file(path: Path) -> Contents:
    """The contents of the file at `path`; its weights are read on access.

    Every access checks that the file was not replaced or written to.
    """
    file, head = Unchanged([path]), first_bytes(path)
    contents = _opened(path, head)
    file.require()
    tensors = {
        name: replace(tensor, read=functools.partial(_read, file, tensor))
        for name, tensor in contents.tensors.items()
    }
    return replace(contents, tensors=tensors, files=file)


def _read(file: Unchanged, tensor: Tensor) -> np.ndarray:
    """The values of `tensor`, which are all of the same `file`."""
    file.require()  # first, since to read a mapping beyond the end of its file ends the process
    array = tensor.read()
    file.require()
    return array


def _opened(path: Path, head: bytes) -> Contents:
    """The contents of the file at `path`, which begins with `head`."""
    if torchfile.is_torch(head):
        container, root = torchfile.load(path, head)
        nested, state, extras = choose(root, path)
        tensors = {name: described(tensor) for name, tensor in state.items()}
        return Contents(container, tensors, extras, nested)
    if safefile.is_safetensors(head):
        return safefile.load(path)
    if llmc.is_llmc(head):
        return llmc.load(path)
    if msgpack_reader.is_msgpack(head):
        return flax_msgpack.load(path)
    raise UserError(f"{path} ({path.stat().st_size} bytes) {unknown(path, head)}")


def first_bytes(path: Path) -> bytes:
    """The first bytes of the regular file at `path`."""
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    if not path.is_file():
        raise UserError(
            f"{path} is a device or a pipe; name a file, which can be read more than once."
        )
    with path.open("rb") as file:
        return file.read(HEAD)


def unknown(path: Path, head: bytes) -> str:
    """The end of a sentence that describes a file in no supported format."""
    if not head:
        return "is empty. Copy or download it again."
    if head.startswith(b"version https://git-lfs"):
        size = re.search(rb"size ([0-9]{1,18})\b", head)
        target = f" to a file of {int(size[1])} bytes" if size else ""
        return f"is a Git LFS pointer{target}, not that file: run git lfs pull in its repository."
    if re.match(rb"\x80[\x02-\x05]", head):
        with path.open("rb") as file:
            names = sorted(Ledger(file).follow(1).names)
        return (
            "is a plain pickle, not written by torch.save, and is not opened, because opening a "
            f"pickle can run any code; this one names {in_a_row(names, ', ') or 'nothing'}. "
            f"{RESAVE}"
        )
    return f"is not a torch, safetensors or Flax checkpoint: it begins with {head[:24]!r}."

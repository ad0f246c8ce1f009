"""Checkpoint files of any container, read lazily and written whole. Knows no dialect and no model."""

import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.data.tokenizer import META
from jaxgpt.errors import UserError, in_a_row, system_error
from jaxgpt.system import atomic_files
from jaxgpt.system.stages import Stage, silent

from . import hf_folder, llmc, safefile, torchfile
from .statedict import LIGHTNING_WRAPPERS, WRAPPERS, choose, wrapping
from .untrusted import RESAVE, Ledger

WRITTEN = (".pt", ".pth", ".safetensors")
TORCH_DTYPES, SAFE_DTYPES = set(torchfile.DTYPES.values()), set(safefile.CODES)


@dataclass(frozen=True)
class Tensor:
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[
        [], np.ndarray
    ]  # C-contiguous and read-only, for it may be the mapped file itself

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Checkpoint:
    path: Path | str  # or what it is called, where it is no file
    container: str
    nested: str  # the key under which the state dict lay, "" when it was the root
    prefix: str  # what was stripped from every name
    tensors: dict[str, Tensor] = field(repr=False)  # in the file's order
    extras: dict[str, Any] = field(repr=False)  # what lay beside the state dict
    aside: tuple[str, ...] = ()  # other files of the same weights, which were not read
    tokenizer: Path | None = None  # that of a folder, or nanoGPT's meta.pkl beside the file

    @property
    def config(self) -> Mapping[str, Any]:
        """That of a config.json in the same folder."""
        return hf_folder.config_beside(self.path) if isinstance(self.path, Path) else {}

    def without(self, prefix: str) -> "Checkpoint":
        """Where all names begin alike: as if they did not."""
        tensors = {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items()}
        return replace(self, prefix=self.prefix + prefix, tensors=tensors)


Weights = (
    str | Path | Checkpoint | Mapping[str, Any] | Any
)  # the last is a torch module, named without torch


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
            "Weights are the path of a checkpoint, a state_dict, or a torch module that has one, but got "
            f"a {type(weights).__name__}."
        )
    return _in_memory(dict(weights))


def _in_memory(root: dict[Any, Any]) -> Checkpoint:
    """A state_dict, or a dict that holds one as checkpoint files do; each reading of a tensor copies it."""
    name = "the state_dict"
    torchfile.need_torch(name)
    nested, state, extras = choose(root, name)
    return _checkpoint(
        name, "torch, in memory", nested, torchfile.described_in_memory(state, name), extras
    )


def read(path: str | Path) -> Checkpoint:
    """Names, shapes and dtypes at once; the weights when they are asked for. A folder stands for the weights in it."""
    path = Path(path)
    try:
        aside: list[Path] = []
        meta = path.parent / META
        tokenizer = meta if meta.is_file() else None
        if path.is_dir():
            tokenizer = hf_folder.tokenizer_in(path)
            path, aside = hf_folder.find(path)
        if path.name.endswith(".index.json"):
            container, nested, found, extras = _read_shards(path)
        else:
            container, nested, found, extras = _read_one(path)
    except OSError as error:
        told = system_error(error)
        raise type(told)(f"{path} cannot be read: {told}") from None
    checkpoint = _checkpoint(path, container, nested, found, extras)
    return replace(checkpoint, aside=tuple(file.name for file in aside), tokenizer=tokenizer)


def _checkpoint(
    path: Path | str, container: str, nested: str, found: dict[str, Any], extras: dict[str, Any]
) -> Checkpoint:
    """`found` is (shape, dtype, read) by name."""
    if not found:
        raise UserError(f"{path} holds no tensors.")
    require_dtypes({name: dtype for name, (_, dtype, _) in found.items()}, TORCH_DTYPES, path)
    prefix = wrapping(list(found), LIGHTNING_WRAPPERS if nested == "state_dict" else WRAPPERS)
    tensors = {name.removeprefix(prefix): Tensor(*described) for name, described in found.items()}
    return Checkpoint(path, container, nested, prefix, tensors, extras)


def _read_one(path: Path) -> tuple[str, str, dict[str, Any], dict[str, Any]]:
    """Container, key of the state dict, (shape, dtype, read) by name, and what lies beside."""
    head = glance(path)
    if torchfile.is_torch(head):
        container, root = torchfile.load(path, head)
        nested, state, extras = choose(root, path)
        return (
            container,
            nested,
            {name: torchfile.describe(tensor) for name, tensor in state.items()},
            extras,
        )
    if safefile.is_safetensors(head):
        return "safetensors", "", *safefile.load(path)
    if llmc.is_llmc(head):
        return "llm.c", "", *llmc.load(path)
    raise UserError(f"{path} ({path.stat().st_size} bytes) {unknown(path, head)}")


def _read_shards(index: Path) -> tuple[str, str, dict[str, Any], dict[str, Any]]:
    found: dict[str, Any] = {}
    shards, listed = Shards(), hf_folder.shards(index)
    for file, names in listed.items():
        container, nested, held, _ = shards.open(index.parent / file)
        lacking = sorted(set(names) - held.keys())
        if lacking:
            raise UserError(
                f"{index} says that {in_a_row(lacking, ', ')} lies in {file}, but it does not."
            )
        if double := sorted(found.keys() & held.keys()):
            raise UserError(
                f"{index}: {in_a_row(double, ', ')} lies in more than one of its shards."
            )
        found |= {
            name: (*described[:2], functools.partial(shards.read, index.parent / file, name))
            for name, described in held.items()
        }
        del held  # while the next one is opened, nothing may refer to this one
    return f"{container} in {len(listed)} shards", nested, found, {}


class Shards:
    """Files of which one is open at a time; to read them in their order opens each once."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._opened: tuple[str, str, dict[str, Any], dict[str, Any]] = "", "", {}, {}

    def open(self, path: Path) -> tuple[str, str, dict[str, Any], dict[str, Any]]:
        if path != self._path:
            self._path, self._opened = None, ("", "", {}, {})  # closes the one before
            self._opened = _read_one(path)
            self._path = path
        return self._opened

    def read(self, path: Path, name: str) -> np.ndarray:
        container, _, held, _ = self.open(path)
        array = held[name][2]()
        if container == "safetensors":
            return array
        own = array.copy()  # what torch maps would keep its file open
        own.flags.writeable = False
        return own


def glance(path: Path) -> bytes:
    """The first bytes of a regular file: what it is, whatever its name says."""
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    if not path.is_file():
        raise UserError(
            f"{path} is a device or a pipe; name a file, which can be read more than once."
        )
    with path.open("rb") as file:
        return file.read(256)


def unknown(path: Path, head: bytes) -> str:
    if not head:
        return "is empty. Copy or download it again."
    if head.startswith(b"version https://git-lfs"):
        real = re.search(rb"size (\d+)", head)
        meant = f" to a file of {int(real[1])} bytes" if real else ""
        return f"is a Git LFS pointer{meant}, not that file: run git lfs pull in its repository."
    if re.match(rb"\x80[\x02-\x05]", head):
        with path.open("rb") as file:
            names = sorted(Ledger(file).follow(1).names)
        return (
            f"is a plain pickle, not written by torch.save, and stays closed, for a pickle can run any code when it "
            f"is opened; this one names {in_a_row(names, ', ') or 'nothing'}. {RESAVE}"
        )
    return f"is not a torch or safetensors checkpoint: it begins with {head[:24]!r}."


def require_dtypes(dtypes: Mapping[str, object], known: set[np.dtype], path: object) -> None:
    odd = [f"{name} is {dtype}" for name, dtype in dtypes.items() if dtype not in known]
    if odd:
        raise UserError(
            f"{path}: {in_a_row(odd)}; there can be {', '.join(sorted(map(str, known)))}. Convert them where they were "
            "made, for instance with tensor.float()."
        )


def to_tensor(array: np.ndarray) -> Any:
    """A torch tensor with memory of its own: torch changes tensors in place, jax takes its arrays for constants."""
    return torchfile.aliasing(np.array(array, order="C"))


def write(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    nested: str = "",
    beside: Mapping[str, Any] | None = None,
    stage: Stage = silent,
) -> None:
    """A file that is whole and holds these very bits, or no file. Its suffix says which container; in torch's, the
    arrays may be nested under a key, and other things lie beside them."""
    path, arrays = (
        Path(path),
        dict(arrays),
    )  # a mapping that makes its arrays on demand would make them thrice
    if path.suffix not in WRITTEN:
        raise UserError(
            f"{path} should end in {' or '.join(WRITTEN)}, so that it is clear what to write; or be an empty directory."
        )
    safe = path.suffix == ".safetensors"
    if not safe:
        torchfile.need_torch(path)
    require_dtypes(
        {name: array.dtype for name, array in arrays.items()},
        SAFE_DTYPES if safe else TORCH_DTYPES,
        path,
    )
    if not arrays:
        raise UserError(f"{path} is not written, for there are no tensors to put in it.")
    stage("writing", 0)
    try:
        with atomic_files.new_file(path) as partial:
            with partial.open("wb") as file:
                if safe:
                    safefile.save(file, arrays)
                else:
                    torchfile.save(file, arrays, nested, beside or {})
            require_same_bits(partial, arrays, stage)
    except OSError as error:
        told = system_error(error)
        raise type(told)(
            f"{path} could not be written, and nothing of it was left: {told}"
        ) from None


def require_same_bits(path: Path, arrays: Mapping[str, np.ndarray], stage: Stage) -> None:
    """Read back before anyone relies on it."""
    written = read(path)
    passed = stage("checking", sum(array.size for array in arrays.values()))
    for name, array in arrays.items():
        passed(array.size)
        tensor = written.tensors[name.removeprefix(written.prefix)]
        same = (tensor.shape, tensor.dtype) == (array.shape, array.dtype)
        if not (same and np.array_equal(safefile.bits(tensor.read()), safefile.bits(array))):
            raise RuntimeError(
                f"{path}: {name} was not read back as it was written; the disk or a library is at fault."
            )

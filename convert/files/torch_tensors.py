"""Converts torch's tensors to arrays and back, and detects tensors that are not what they claim."""

import functools
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxgpt.errors import UserError, in_a_row
from jaxgpt.optional import need

from ..dtypes import BY_NAME
from .contents import Tensor
from .safefile import piece
from .untrusted import HARMLESS_BYTES

MAPS = Path("/proc/self/maps")  # the files that this process has mapped, on Linux
SMALL = 2**20  # the most bytes of a tensor that may stay mapped
NO_ARRAY = "which has no plain array"
SHOWN = 8  # the most keys of a path in an error

KeyPath = tuple["KeyPath", Any] | None  # (path of the parent, key); None is the root


def tensors_within(torch: Any, root: Any) -> Iterator[tuple[KeyPath, Any]]:
    """Every tensor in `root`, however deep, with the path to it.

    This includes tensors outside the state dict, because a file may nest weights, or contain
    itself.
    """
    waiting: list[tuple[KeyPath, Any]] = [(None, root)]
    seen = set()
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, torch.Tensor):
            yield path, value
        elif isinstance(value, (dict, list, tuple, set)) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [((path, key), item) for key, item in items]


def spelled(path: KeyPath) -> str:
    """The last keys of `path`, joined by dots."""
    keys: list[str] = []
    while path and len(keys) < SHOWN:
        path, key = path
        keys.append(str(key))
    start = "...." if path else ""
    return start + ".".join(reversed(keys)) or "the root"


def unbacked(torch: Any, root: Any, stored: int) -> list[str]:
    """Problems with tensors that have no data of their own in a file of `stored` bytes.

    Tied tensors count once; a few may be views of others.
    """
    problems, claims = [], {}
    for path, tensor in tensors_within(torch, root):
        if kind := not_plain(torch, tensor):
            problems.append(f"{spelled(path)} is {kind}, {NO_ARRAY}")
            continue
        storage = tensor.untyped_storage()
        claim = tensor.numel() * tensor.element_size()
        if claim > storage.nbytes():
            problems.append(
                f"{spelled(path)} claims {tensor.numel()} elements, which are {claim} bytes, but "
                f"only {storage.nbytes()} are stored"
            )
        claims[storage.data_ptr(), tensor.storage_offset(), tensor.shape] = claim
    total = sum(claims.values())
    if total > max(HARMLESS_BYTES, 2 * stored) and not problems:
        problems.append(
            f"its tensors overlap: together they claim {total} bytes, but only {stored} are stored"
        )
    return problems


def not_plain(torch: Any, tensor: Any) -> str:
    """The kind of a tensor that cannot be a plain array; "" for ordinary ones."""
    if tensor.is_meta:
        return "a meta tensor (a shape without values)"
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.is_quantized:
        return "a quantised tensor"
    if tensor.layout is not torch.strided:
        return f"a sparse tensor ({tensor.layout})"
    return ""


def is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def described(tensor: Any) -> Tensor:
    """The tensor of a file, to be read later."""
    return Tensor(tuple(tensor.shape), _dtype(tensor), functools.partial(read_from_file, tensor))


def read_from_file(tensor: Any) -> np.ndarray:
    """The values of `tensor`; small ones are copied, because mapped pages change with their
    file."""
    array = to_array(tensor)
    if array.nbytes < SMALL:
        array = array.copy()
        array.flags.writeable = False
    return array


def described_in_memory(state: Mapping[str, Any], what: str) -> dict[str, Tensor]:
    """The tensors of `state`, on any device. Reading copies a tensor, because its owner may change
    it."""
    import torch

    odd = [
        f"{name} is {kind}" for name, tensor in state.items() if (kind := not_plain(torch, tensor))
    ]
    if odd:
        raise UserError(f"{what} cannot be read: {in_a_row(odd)}, {NO_ARRAY}.")

    def copied(tensor: Any) -> np.ndarray:
        return to_array(tensor.detach().to("cpu", copy=True))

    return {
        name: Tensor(tuple(tensor.shape), _dtype(tensor), functools.partial(copied, tensor))
        for name, tensor in state.items()
    }


def _dtype(tensor: Any) -> Any:
    """The numpy dtype of a tensor, or torch's name of a kind that numpy lacks."""
    name = str(tensor.dtype).removeprefix("torch.")
    return BY_NAME.get(name, name)


def to_array(tensor: Any) -> np.ndarray:
    """The values of `tensor`, read-only: the array may share its memory with the mapped file."""
    import torch

    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    array = _read_from_mapped_file(plain)
    if array is None and plain.dtype is torch.bfloat16:
        array = plain.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    elif array is None:
        array = plain.numpy()
    array.flags.writeable = False
    return array


def _read_from_mapped_file(tensor: Any) -> np.ndarray | None:
    """The values of `tensor`, read from the file that torch has mapped, if there is one.

    Mapped pages that were touched would stay in memory next to the converted arrays. None for small
    tensors, and if there is no such file.
    """
    start, size = tensor.data_ptr(), tensor.numel() * tensor.element_size()
    if size < SMALL or not MAPS.exists():
        return None
    for line in MAPS.read_bytes().split(b"\n")[:-1]:  # bytes, because names may be no text
        span, _, offset, _, inode, *name = line.split(maxsplit=5)
        low, high = (int(end, 16) for end in span.split(b"-"))
        if not (low <= start and start + size <= high):
            continue
        path = Path(*map(os.fsdecode, name))
        # The kernel marks the name of a deleted file, so that it is not mistaken for another
        # file's.
        if inode == b"0" or line.endswith(b" (deleted)") or not path.is_file():
            return None
        shape = tuple(tensor.shape)
        return piece(path, _dtype(tensor), shape, int(offset, 16) + start - low)
    return None


def aliasing(array: np.ndarray) -> Any:
    """A tensor that shares the memory of `array`; it must not be written to."""
    torch = need("torch", "A torch tensor")
    bfloat16 = array.dtype == ml_dtypes.bfloat16
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        tensor = torch.from_numpy(array.view(np.uint16) if bfloat16 else array)
    return tensor.view(torch.bfloat16) if bfloat16 else tensor

"""One torch file, opened without trusting it, or written. Knows no dialect, no model and no other format."""

import functools
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from jaxgpt.errors import UserError, in_a_row, need

from .safefile import piece
from .untrusted import HARMLESS_BYTES, RESAVE, Archive, Ledger, report

ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
LEGACY_MAGIC = bytes.fromhex(
    "6cfc9c46f9206aa85019"
)  # the number with which files older than torch 1.6 begin
OLDEST_TORCH = (
    2,
    10,
)  # older ones can be made to run code in spite of weights_only: CVE-2025-32434, CVE-2026-24747
MAPS = Path("/proc/self/maps")  # where the parts of this process's memory come from, on Linux

DTYPES = {  # by torch's names
    "bool": np.dtype(bool),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    **{
        f"{kind}{bits}": np.dtype(f"{kind}{bits}")
        for kind in ("int", "uint")
        for bits in (8, 16, 32, 64)
    },
    **{f"float{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"complex{bits}": np.dtype(f"complex{bits}") for bits in (64, 128)},
}


def is_torch(head: bytes) -> bool:
    return head.startswith(ZIP_MAGIC) or LEGACY_MAGIC in head[:32]


def load(path: Path, head: bytes) -> tuple[str, Any]:
    """The container's name and the root object; every tensor in it lies wholly within bytes that the file holds."""
    torch = need_torch(path)
    size = path.stat().st_size
    who = f"{path} ({size} bytes)"
    if head.startswith(ZIP_MAGIC):
        archive = Archive(path, who)
        container, ledger, limit, problems = (
            "torch zip",
            archive.ledger,
            archive.inflated_bytes,
            archive.overdrawn(),
        )
        # torch maps a deflated entry as if it were stored, and takes what stands there for weights. A path that ends
        # in .safetensors it hands to another reader; an open file it does not, but cannot map either.
        mapped = archive.stored and not path.name.endswith(".safetensors")
    else:
        with path.open("rb") as file:
            ledger = Ledger(file).follow(
                5
            )  # magic number, version, machine, the root, the storages' keys
        container, limit, claim, mapped = "torch legacy", size, sum(ledger.claims.values()), False
        problems = (
            [f"its storages are declared with {claim} bytes, more than the file has"]
            if claim > size
            else []
        )
    if ledger.broken or ledger.hungry:
        raise unloadable(torch, path, who, ledger, ledger.broken)
    report(who, problems)
    try:
        root = load_weights(torch, path, mapped)
    except Exception as error:  # on hostile input torch raises any kind at all
        raise unloadable(torch, path, who, ledger, in_short(error)) from None
    problems = unbacked(torch, root, limit)
    if problems:
        raise UserError(
            f"{who}: {in_a_row(problems)}. In the program that wrote it, save plain tensors with memory of their own: "
            "tensor.to_dense(), .dequantize() or .clone()."
        )
    return container, root


def need_torch(what: object) -> Any:
    torch = need("torch", what)
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
        raise UserError(
            f"{what} needs torch {'.'.join(map(str, OLDEST_TORCH))} or later. Here is {torch.__version__}, which a "
            "file can make run code: pip install --upgrade torch."
        )
    return torch


def load_weights(torch: Any, path: Path, mapped: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # on protocols and prototypes: what is wrong is said below, the rest is no news
        if mapped:
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=False)


def in_short(error: Exception) -> str:
    """torch's own words, without its advice to load the file unsafely."""
    words = str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0]
    return (
        ""
        if "weights_only" in words
        else in_a_row([f"{type(error).__name__} {words[:200]}".strip()])
    )


def unloadable(torch: Any, path: Path, who: str, ledger: Ledger, reason: str) -> UserError:
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # it reads no legacy file, and no pickle newer than protocol 2
        foreign = ledger.foreign
    if foreign or ledger.hungry:
        names = in_a_row(sorted({*foreign, *ledger.hungry}), ", ")
        return UserError(
            f"{who} holds more than tensors: it names {names}. To rebuild such objects is to let the file choose what "
            f"is run and how much memory is filled, so it stays closed. {RESAVE}"
        )
    if ledger.proto > 2:
        return UserError(
            f"{who} was pickled with protocol {ledger.proto}, and torch's safe reader knows only protocol 2. "
            "In the program that wrote it, save without pickle_protocol."
        )
    return UserError(
        f"{who} is laid out like a torch checkpoint, but torch cannot load it ({reason}): it is truncated or "
        "damaged. Copy or download it again."
    )


def tensors_within(torch: Any, root: Any) -> Iterator[tuple[str, Any]]:
    """Every tensor under the root, siblings of the weights too: the file may nest them, or tie a knot."""
    waiting, seen = [("", root)], set()
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, torch.Tensor):
            yield name or "the root", value
        elif isinstance(value, (dict, list, tuple, set)) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [(f"{name}.{key}".removeprefix("."), item) for key, item in items]


def unbacked(torch: Any, root: Any, limit: int) -> list[str]:
    """Tensors without bytes of their own in the file. Tied ones are counted once; a few may be views of others."""
    problems, places = [], {}
    for name, tensor in tensors_within(torch, root):
        if odd := oddity(torch, tensor):
            problems.append(f"{name} is {odd}, which has no plain array")
            continue
        claim, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        if claim > held:
            problems.append(
                f"{name} claims {tensor.numel()} elements, that is {claim} bytes, over {held} stored ones"
            )
        places[tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape] = claim
    total = sum(places.values())
    if total > max(HARMLESS_BYTES, 2 * limit) and not problems:
        problems.append(
            f"its tensors overlap, and claim {total} bytes together, over {limit} stored ones"
        )
    return problems


def oddity(torch: Any, tensor: Any) -> str:
    kinds = {
        "a meta tensor (a shape without values)": tensor.is_meta,
        "a nested tensor": tensor.is_nested,
        "a quantised tensor": tensor.is_quantized,
        f"a sparse tensor ({tensor.layout})": tensor.layout is not torch.strided,
    }
    return next((kind for kind, found in kinds.items() if found), "")


def is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def describe(tensor: Any) -> tuple[tuple[int, ...], Any, Callable[[], np.ndarray]]:
    """Shape, dtype or the name of a kind that numpy has not, and a function that reads it."""
    name = str(tensor.dtype).removeprefix("torch.")
    return tuple(tensor.shape), DTYPES.get(name, name), functools.partial(to_array, tensor)


def described_in_memory(state: Mapping[str, Any], what: str) -> dict[str, Any]:
    """As `describe`, of tensors that somebody goes on using, on whatever device: what is read is a copy."""
    import torch

    odd = [f"{name} is {kind}" for name, tensor in state.items() if (kind := oddity(torch, tensor))]
    if odd:
        raise UserError(f"{what} cannot be read: {in_a_row(odd)}, which has no plain array.")
    return {
        name: (
            *describe(tensor)[:2],
            lambda tensor=tensor: to_array(tensor.detach().to("cpu", copy=True)),
        )
        for name, tensor in state.items()
    }


def to_array(tensor: Any) -> np.ndarray:
    """Read-only, for it may be the mapped file itself."""
    import torch

    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if (array := unmapped(plain)) is None:
        bfloat16 = plain.dtype is torch.bfloat16
        array = (
            plain.view(torch.uint16).numpy().view(ml_dtypes.bfloat16) if bfloat16 else plain.numpy()
        )
    array.flags.writeable = False
    return array


def unmapped(tensor: Any) -> np.ndarray | None:
    """Read from the file that torch has mapped: pages of the mapping, once looked at, would stay in memory beside what
    is made of them. None where it is small, or no such file is found."""
    start, size = tensor.data_ptr(), tensor.numel() * tensor.element_size()
    if size < 2**20 or not MAPS.exists():
        return None
    for line in MAPS.read_bytes().split(b"\n")[:-1]:  # a name may be no text
        span, _, offset, _, inode, *name = line.split(maxsplit=5)
        low, high = (int(end, 16) for end in span.split(b"-"))
        path = Path(
            *map(os.fsdecode, name)
        )  # of one that is deleted the name goes on with a word of the kernel's
        gone = inode == b"0" or line.endswith(b" (deleted)") or not path.is_file()
        if low <= start and start + size <= high and not gone:
            dtype = DTYPES[str(tensor.dtype).removeprefix("torch.")]
            return piece(path, dtype, tuple(tensor.shape), int(offset, 16) + start - low)
    return None


def aliasing(array: np.ndarray) -> Any:
    """A tensor over the array's own memory, not to be written to."""
    torch = need_torch("A torch tensor")
    bfloat16 = array.dtype == ml_dtypes.bfloat16
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        tensor = torch.from_numpy(array.view(np.uint16) if bfloat16 else array)
    return tensor.view(torch.bfloat16) if bfloat16 else tensor


def save(
    file: IO[bytes], arrays: Mapping[str, np.ndarray], nested: str, beside: Mapping[str, Any]
) -> None:
    """As torch.save(model.state_dict()), or that under a key; an array given under two names becomes tied tensors."""
    import torch

    tensors: dict[int, Any] = {}
    for array in arrays.values():
        # A transposed array keeps its strides: a copy of each would be a second set of weights in memory. But torch
        # writes everything between a tensor's first and last element, so a slice of something larger is copied.
        if id(array) not in tensors:
            tensors[id(array)] = aliasing(
                array if array.flags.forc else np.ascontiguousarray(array)
            )
    try:
        state = OrderedDict((name, tensors[id(array)]) for name, array in arrays.items())
        torch.save({nested: state, **beside} if nested else OrderedDict(state, **beside), file)
    except RuntimeError as error:  # what a full disk becomes on the way through torch
        raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None

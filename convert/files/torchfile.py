"""Opens one untrusted torch file, or writes one.

Independent of dialects, models and other formats.
"""

import warnings
from pathlib import Path
from typing import Any

from jaxgpt.errors import UserError, in_a_row, is_of_the_system
from jaxgpt.optional import how_to_install, need

from .ledger import Ledger
from .torch_tensors import unbacked
from .untrusted import RESAVE, Archive, report

ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
LEGACY_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")  # the start of files from before torch 1.6
LEGACY_PICKLES = 5  # magic number, version, machine, the root, the keys of the storages
# Older versions run code in spite of weights_only: CVE-2025-32434, CVE-2026-24747.
OLDEST_TORCH = (2, 10)


def is_torch(head: bytes) -> bool:
    """Whether `head` begins a file of torch.save, old or new."""
    return head.startswith(ZIP_MAGIC) or LEGACY_MAGIC in head[:32]


def load(path: Path, head: bytes) -> tuple[str, Any]:
    """The container's name and the root object of the file at `path`, which begins with `head`.

    The data of every tensor are completely inside the file.
    """
    torch = need_torch(path)
    size = path.stat().st_size
    who = f"{path} ({size} bytes)"
    if head.startswith(ZIP_MAGIC):
        archive = Archive(path, who)
        container, ledger, stored = "torch zip", archive.ledger, archive.inflated_bytes
        problems = archive.overdrawn()
        # torch maps a deflated entry as if it were stored, and interprets its bytes as weights. It
        # passes a path that ends in .safetensors to another reader, and cannot map an open file, or
        # a file whose name is not valid text.
        text = str(path).encode(errors="ignore").decode() == str(path)
        mapped = archive.stored and not path.name.endswith(".safetensors") and text
    else:
        ledger = _legacy_ledger(path)
        container, stored, mapped = "torch legacy", size, False
        problems = _overdrawn(ledger, size)
    if ledger.broken or ledger.allocating:
        raise _unloadable(torch, path, who, ledger, ledger.broken)
    report(who, problems)
    try:
        root = _load_weights(torch, path, mapped)
    except Exception as error:  # on hostile input torch raises any kind of exception
        if is_of_the_system(error):
            raise
        raise _unloadable(torch, path, who, ledger, _in_short(error)) from None
    if problems := unbacked(torch, root, stored):
        raise UserError(
            f"{who}: {in_a_row(problems)}. In the program that wrote it, save plain tensors with "
            "memory of their own: tensor.to_dense(), .dequantize() or .clone()."
        )
    return container, root


def need_torch(what: object) -> Any:
    """The module torch, which `what` needs, in a version that opens files safely."""
    torch = need("torch", what)
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
        raise UserError(
            f"{what} needs torch {'.'.join(map(str, OLDEST_TORCH))} or later. In the installed "
            f"{torch.__version__}, a file can run code: {how_to_install('torch')}."
        )
    return torch


def _legacy_ledger(path: Path) -> Ledger:
    with path.open("rb") as file:
        return Ledger(file).follow(LEGACY_PICKLES)


def _overdrawn(ledger: Ledger, size: int) -> list[str]:
    """The problem that storages of a legacy file claim more than its `size` bytes, if they do."""
    claim = sum(ledger.claims.values())
    if claim <= size:
        return []
    return [f"its storages are declared with {claim} bytes, more than the file has"]


def _load_weights(torch: Any, path: Path, mapped: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about protocols and prototypes; errors are raised
        if mapped:
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=False)


def _in_short(error: Exception) -> str:
    """torch's own message, without its advice to load the file unsafely."""
    words = str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0]
    if "weights_only" in words:
        return ""
    return in_a_row([f"{type(error).__name__} {words[:200]}".strip()])


def _unloadable(torch: Any, path: Path, who: str, ledger: Ledger, reason: str) -> UserError:
    """The error for a file that torch cannot load, or must not load."""
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # it reads no legacy file, and no pickle newer than protocol 2
        foreign = ledger.foreign
    if foreign or ledger.allocating:
        names = in_a_row(sorted({*foreign, *ledger.allocating}), ", ")
        return UserError(
            f"{who} holds more than tensors: it names {names}. Rebuilding such objects would let "
            "the file choose what code runs and how much memory it takes, so it is not opened. "
            f"{RESAVE}"
        )
    if ledger.proto > 2:
        return UserError(
            f"{who} was pickled with protocol {ledger.proto}, and torch's safe reader supports "
            "only protocol 2. In the program that wrote it, save without pickle_protocol."
        )
    return UserError(
        f"{who} is laid out like a torch checkpoint, but torch cannot load it ({reason}): it is "
        "truncated or damaged. Copy or download it again."
    )

"""Writes checkpoint files, tensor by tensor, and reads them again to compare the bits."""

import contextlib
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxgpt.errors import UserError, system_error
from jaxgpt.system import atomic_files
from jaxgpt.system.stages import Stage, silent

from ..dtypes import CODES
from ..streams import Described, Stream, bits
from . import safefile, torch_writer, torchfile
from .checkpoints import DTYPES, read, require_dtypes

SUFFIXES = (".pt", ".pth", ".safetensors")


class Writer(Protocol):
    """A file that takes tensors one after the other, and returns the CRC-32 of each."""

    def put(self, names: Sequence[str], array: np.ndarray) -> int: ...


def save(
    path: str | Path,
    tensors: Mapping[str, np.ndarray] | Stream,
    nested: str = "",
    extras: Mapping[str, Any] | None = None,
    stage: Stage = silent,
) -> None:
    """Write `tensors`, bit for bit, to a new file whose suffix decides the format.

    In a torch file they may be under the key `nested`, with `extras` next to them. If anything
    fails, no file is left.
    """
    path = Path(path)
    stream = tensors if isinstance(tensors, Stream) else Stream.of(tensors)
    _require_writable(path, stream.tensors)
    with _errors_naming(path), atomic_files.new_file(path) as partial:
        if path.suffix == ".safetensors":
            sums = _put(stream, safefile.Writer(partial, stream.tensors), stage)
        else:
            with partial.open("wb") as file, torch_writer.Writer(file) as writer:
                sums = _put(stream, writer, stage)
                writer.finish(stream.tensors, nested, extras or {})
        _require_same_bits({partial: [*stream.tensors]}, stream, sums, stage)


def save_shards(
    folder: Path, shards: Mapping[str, Collection[str]], tensors: Stream, stage: Stage
) -> None:
    """Write `tensors`, bit for bit, to safetensors files in `folder`; `shards` has their names."""
    writers: dict[str, Writer] = {}
    for name, inside in shards.items():
        own = {tensor: tensors.tensors[tensor] for tensor in inside}
        _require_writable(folder / name, own)
        writers |= dict.fromkeys(own, safefile.Writer(folder / name, own))
    sums = _put(tensors, _Shards(writers), stage)
    _require_same_bits({folder / name: own for name, own in shards.items()}, tensors, sums, stage)


class _Shards:
    """Several files, each with some of the tensors; `writers` has the file of each name."""

    def __init__(self, writers: Mapping[str, Writer]):
        self._writers = writers

    def put(self, names: Sequence[str], array: np.ndarray) -> int:
        sums = [self._writers[name].put([name], array) for name in names]
        return sums[0]


@contextlib.contextmanager
def _errors_naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = system_error(error)
        raise type(reason)(
            f"{path} could not be written, and no part of it remains: {reason}"
        ) from None


def _require_writable(path: Path, tensors: Mapping[str, Described]) -> None:
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"{path} must end in {' or '.join(SUFFIXES)}, which decides the format, or be an empty "
            "directory, for a Hugging Face folder."
        )
    safe = path.suffix == ".safetensors"
    if not safe:
        torchfile.need_torch(path)
    kinds = {name: tensor.dtype for name, tensor in tensors.items()}
    require_dtypes(kinds, {*CODES} if safe else DTYPES, path)
    if not tensors:
        raise UserError(f"{path} is not written, because there are no tensors to put in it.")


def _put(stream: Stream, writer: Writer, stage: Stage) -> dict[str, int]:
    """Give all tensors to `writer`; the checksum of each that is made."""
    passed = stage("writing", sum(tensor.size for tensor in stream.tensors.values()))
    names, sums = stream.sharing(), dict[str, int]()
    for name, array in stream.made():
        sums[name] = writer.put(names[name], array)
        passed(array.size * len(names[name]))
    return sums


def _require_same_bits(
    files: Mapping[Path, Collection[str]], stream: Stream, sums: Mapping[str, int], stage: Stage
) -> None:
    """Read the files back and compare their tensors with those of `stream`, by their `sums`."""
    passed = stage("checking", sum(tensor.size for tensor in stream.tensors.values()))

    def check(name: str) -> None:
        tensor = written.tensors[name.removeprefix(written.prefix)]
        alike = (tensor.shape, tensor.dtype) == stream.tensors[name]
        if not (
            alike and zlib.crc32(bits(tensor.read()).data) == sums[stream.twins.get(name, name)]
        ):
            raise RuntimeError(
                f"{path}: {name} was not read back as it was written; the disk or a library is at "
                "fault."
            )

    with ThreadPoolExecutor(2) as threads:
        for path, names in files.items():
            written = read(path)
            for name, _ in zip(names, threads.map(check, names), strict=True):
                passed(stream.tensors[name].size)

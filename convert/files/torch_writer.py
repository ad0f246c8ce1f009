"""Writes a torch checkpoint tensor by tensor. `torch.save` would need all of them in memory."""

import contextlib
import io
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pickle import Pickler
from typing import IO, Any

import numpy as np

from ..dtypes import BY_NAME
from ..streams import bits

FOLDER = "archive"  # of all records
ALIGNMENT = 64  # of the data of a tensor in the file, as torch aligns them
HEADER_BYTES = 30  # of a record, without its name and extra fields
PADDING_ID = b"FB"  # of the extra field that aligns the data, which has its length after the id
LARGE = 2**30  # records of more bytes get the extra field for sizes beyond 4 GiB
LARGE_BYTES = 20  # of that field
TORCH_NAMES = {dtype: name for name, dtype in BY_NAME.items()}


class Writer:
    """A file as torch.save writes it, of tensors that are put into it one after the other."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._zip = zipfile.ZipFile(file, "w")
        self._keys: dict[int, str] = {}  # the id of a storage -> the name of its record
        self._tensors: dict[str, Any] = {}
        self._record("version", b"3\n")
        self._record("byteorder", b"little")

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, ValueError):  # after an error, such as a full disk
            self._zip.close()

    def put(self, names: Sequence[str], array: np.ndarray) -> int:
        """Write `array`, as one tensor under all of `names`, and return the CRC-32 of its bytes."""
        import torch

        # Its memory is never touched: pickle needs only the shape and dtype.
        tensor = torch.empty(array.shape, dtype=getattr(torch, TORCH_NAMES[array.dtype]))
        self._tensors |= dict.fromkeys(names, tensor)
        return self._put_storage(tensor.untyped_storage(), array)

    def finish(self, order: Iterable[str], nested: str, extras: Mapping[str, Any]) -> None:
        """Write the state dict in this `order`, or under the key `nested` with `extras`."""
        state = OrderedDict((name, self._tensors[name]) for name in order)
        root = {nested: state, **extras} if nested else OrderedDict({**state, **extras})
        pickled = io.BytesIO()
        _Pickler(pickled, self._key).dump(root)
        self._record("data.pkl", pickled.getbuffer())
        self._zip.close()

    def _key(self, storage: Any) -> str:
        """The name of the record of `storage`, which is written if it was not put."""
        import torch

        if storage._cdata not in self._keys:  # a tensor among the extras
            content = torch.empty(0, dtype=torch.uint8).set_(storage)
            self._put_storage(storage, content.numpy())
        return self._keys[storage._cdata]

    def _put_storage(self, storage: Any, array: np.ndarray) -> int:
        self._keys[storage._cdata] = key = str(len(self._keys))
        return self._record(f"data/{key}", bits(array).data)

    def _record(self, name: str, content: bytes | memoryview) -> int:
        info = zipfile.ZipInfo(f"{FOLDER}/{name}")
        info.file_size = memoryview(content).nbytes
        large = info.file_size > LARGE
        start = self._file.tell() + HEADER_BYTES + len(info.filename) + large * LARGE_BYTES
        padding = -(start + 4) % ALIGNMENT
        info.extra = PADDING_ID + struct.pack("<H", padding) + bytes(padding)
        with self._zip.open(info, "w", force_zip64=large) as record:
            record.write(content)
        return info.CRC


class _Pickler(Pickler):
    """Names storages in the pickle as torch does; `key` returns the record that holds one."""

    def __init__(self, file: IO[bytes], key: Callable[[Any], str]):
        super().__init__(file, protocol=2)
        self._key = key

    def persistent_id(self, value: Any) -> tuple[Any, ...] | None:
        import torch

        if isinstance(value, torch.storage.TypedStorage):
            kind, count = getattr(torch, value._pickle_storage_type()), value._size()
            return "storage", kind, self._key(value._untyped_storage), "cpu", count
        if isinstance(value, torch.UntypedStorage):
            return "storage", torch.UntypedStorage, self._key(value), "cpu", value.nbytes()
        return None

"""Pickles that would write a file if they were run, and files of every kind that have one inside."""

import io
import os
import pickle
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class Call:
    """An object whose pickle calls `function` with `arguments` when it is loaded."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


def pickles(mark: Path) -> dict[str, bytes]:
    """Pickles by name, each of which creates the file `mark` if it is run."""
    code = f"open({str(mark)!r}, 'w').close()"
    calls = {
        "exec": Call(exec, code), "eval": Call(eval, code), "open": Call(open, str(mark), "w"),
        "os.mkdir": Call(os.mkdir, str(mark)), "os.system": Call(os.system, f"touch '{mark}'"),
        "call": Call(subprocess.call, ["touch", str(mark)]), "touch": Call(Path.touch, mark),
        "tofile": Call(np.ndarray.tofile, np.zeros(1), str(mark)),
    }  # fmt: skip
    made = {
        f"{name} {protocol}": pickle.dumps(one, protocol)
        for name, one in calls.items()
        for protocol in (0, 2, 4, 5)
    }
    text = str(mark).encode()
    made["inst"] = b"(S'" + text + b"'\nS'w'\ni__builtin__\nopen\n."
    made["obj"] = b"(c__builtin__\nopen\nS'" + text + b"'\nS'w'\no."
    made["in a dict"] = pickle.dumps(
        {"model": {"w": calls["open"]}, "stoi": calls["exec"], "vocab_size": 3}
    )
    made["as a key"] = pickle.dumps(
        {"itos": {0: "a"}, "stoi": {"a": 0}, "more": [calls["os.mkdir"]]}, 2
    )
    return made


def npy(content: bytes) -> bytes:
    """A file of numpy with an array of objects, stored as the pickle `content`."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def torch_zip(content: bytes) -> bytes:
    """A zip archive as torch writes it, with `content` as its data.pkl."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", b"3\n")
    return file.getvalue()


def torch_legacy(content: bytes) -> bytes:
    start = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
    return b"".join(pickle.dumps(one, 2) for one in start) + content + pickle.dumps([], 2)


def npz(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("w.npy", npy(content))
    return file.getvalue()


def msgpack(content: bytes) -> bytes:
    """A msgpack map as Flax writes it, in which the extension of an array holds `content`."""
    extension = b"\xc9" + struct.pack(">Ib", len(content), 1) + content
    return b"\x81\xa6params\x81\xa6kernel" + extension


def parquet(content: bytes) -> bytes:
    """A table whose metadata says that the type of its column is the pickle `content`."""
    import pyarrow
    import pyarrow.parquet

    names = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": content,
    }
    field = pyarrow.field("text", pyarrow.string(), metadata=names)
    table = pyarrow.table({"text": ["a wood"] * 40}, schema=pyarrow.schema([field], metadata=names))
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    return file.getvalue()


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes, "npy": npy, "npz": npz, "torch zip": torch_zip, "torch legacy": torch_legacy, "msgpack": msgpack,
    "parquet": parquet, "after text": lambda content: b"a text\n" * 40 + content,
}  # fmt: skip

"""Ids are read from the files that people have; files with false contents are refused."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest

from convert.tokens.encode_text import read_ids
from jaxgpt.errors import UserError


def npy(shape: str, data: bytes = bytes(8)) -> bytes:
    """A .npy file of int64 that claims `shape`."""
    header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, ids=np.arange(3))
    return file.getvalue()


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.int64])
def test_ids_of_every_file(kind: type, tmp_path: Path) -> None:
    ids = np.array([[0, 29], [59, 7]], kind)
    np.save(tmp_path / "ids.npy", ids)
    (tmp_path / "ids.bin").write_bytes(ids.astype("<u2").tobytes())
    (tmp_path / "ids.txt").write_text("[0, 29, 59, 7]\n")
    for name in ("ids.npy", "ids.bin", "ids.txt"):
        found = read_ids(str(tmp_path / name))
        assert (found.dtype, found.tolist()) == (np.int64, [0, 29, 59, 7])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", npy("(10**15,)".replace("10**15", "1" + "0" * 15)), "is not an array of ids"),
        ("a.npy", npy("(9223372036854775807, 9)"), "is not an array of ids"),
        ("a.npy", npy("(-1,)"), "is not an array of ids"),
        ("a.npy", npy("(2,)"), "is not an array of ids"),
        ("a.npy", npz(), r"is an archive of arrays \(.npz\)"),
        ("a.npy", b"", "is not an array of ids"),
        ("a.bin", b"abc", "has 3 bytes, but ids in a .bin file have two bytes each"),
    ],
)
def test_a_file_that_lies_is_refused(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} {message}"):
        read_ids(str(tmp_path / name))

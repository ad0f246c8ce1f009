"""Truncated, damaged or forged safetensors files are refused with a reason; the format itself has no checksum."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.files import checkpoints, saving
from jaxgpt.errors import UserError


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    saving.save(
        folder / "w.safetensors", {"a.w": np.ones((5, 3), "float32"), "b.w": np.ones(7, "float16")}
    )
    return folder / "w.safetensors"


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_damaged_safetensors_file_is_refused_or_complete(small, place, flip):
    content = bytearray(small.read_bytes())
    content[place % len(content)] ^= flip
    damaged = small.with_name("damaged.safetensors")
    damaged.write_bytes(content)
    try:
        read = checkpoints.read(damaged)
    except UserError as error:
        assert str(error).isprintable()  # noqa: PT017
        return
    # Without checksums, another value, name or shape cannot be told from the right one.
    assert sum(tensor.read().nbytes for tensor in read.tensors.values()) == 5 * 3 * 4 + 7 * 2


def test_a_safetensors_file_cut_anywhere_is_refused(small):
    content = small.read_bytes()
    cut = small.with_name("cut.safetensors")
    for length in range(len(content)):
        cut.write_bytes(content[:length])
        with pytest.raises(UserError, match=rf"cut\.safetensors.*{length}\b"):
            checkpoints.read(cut)


def header(text, length=None):
    return struct.pack("<Q", len(text) if length is None else length) + text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (header(b'{"a":1}', 10**6), "header alone should end at byte 1000008, but it has 15 bytes"),
        (header(b"{nonsense"), "its header of 9 bytes is not one"),
        (
            header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
            r"it should have \d+ bytes, and it has \d+",
        ),
        (
            header(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,8]}}') + bytes(8),
            "invalid shape",
        ),
        (header(b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}') + bytes(8), "-2"),
        (
            header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}') + bytes(12),
            "not a whole one",
        ),
        (
            header(b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}'),
            "not a whole one",
        ),
        (
            header(b'{"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}') + bytes(8),
            r"a is F8_E4M3.*\.float\(\)",
        ),
        (header(b"{}      "), "holds no tensors"),
        (header(b'{"a":' + b"[" * 50_000), "not a whole one"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, content, says):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=rf"w\.safetensors.*{says}"):
        checkpoints.read(tmp_path / "w.safetensors")


def test_metadata_lies_beside_the_tensors(small):
    assert checkpoints.read(small).extras == {"format": "pt"}


def test_every_tensor_begins_at_a_multiple_of_its_item_size(tmp_path):
    arrays = {
        "odd": np.ones(3, "uint8"),
        "half": np.ones(3, "float16"),
        "w": np.arange(4.0),
        "v": np.arange(2.0),
    }
    saving.save(tmp_path / "w.safetensors", arrays)
    content = (tmp_path / "w.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    found = {
        name: info["data_offsets"][0]
        for name, info in json.loads(content[8 : 8 + length]).items()
        if name in arrays
    }
    assert length % 8 == 0
    assert list(found) == ["w", "v", "half", "odd"]
    assert all(offset % arrays[name].itemsize == 0 for name, offset in found.items())

"""Damage to token files is detected."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.data.tokens import (
    HEADER_BYTES,
    Dataset,
    open_dataset,
    open_tokens,
    write_tokens,
)
from jaxgpt.errors import UserError
from jaxgpt.system import directories
from tests.helpers import train_bytes


def prepared(path: Path, ids: int = 300) -> Path:
    with directories.new_directory(path) as partial:
        write_tokens(partial / "train.bin", [np.arange(ids) % 7], 7, len)
        write_tokens(partial / "val.bin", [np.arange(30) % 7], 7, len)
        (partial / "tokenizer.json").write_text('["a", "b", "c", "d", "e", "f", "g"]')
        (partial / "data.json").write_text("{}")
    return path


@pytest.mark.parametrize(
    ("vocab_size", "dtype"),
    [
        (2, "uint8"),
        (256, "uint8"),
        (257, "uint16"),
        (65536, "uint16"),
        (65537, "uint32"),
        (1 << 32, "uint32"),
    ],
)
def test_ids_are_written_in_the_narrowest_type(vocab_size: int, dtype: str, tmp_path: Path) -> None:
    ids = np.array([0, 1, vocab_size - 1, vocab_size // 2])
    pieces = [ids[:1], ids[1:1], ids[1:]]
    header = write_tokens(
        tmp_path / "ids.bin", iter(pieces), vocab_size, lambda piece: 3 * len(piece)
    )
    tokens, again = open_tokens(tmp_path / "ids.bin")
    np.testing.assert_array_equal(tokens, ids)
    assert again == header
    assert (header["dtype"], header["count"], header["text_bytes"]) == (dtype, 4, 12)
    assert (tmp_path / "ids.bin").stat().st_size == HEADER_BYTES + 4 * np.dtype(dtype).itemsize
    assert HEADER_BYTES % 64 == 0


@pytest.mark.parametrize("wrong", [-1, 7, 256])
def test_an_id_out_of_range_is_named_with_its_position(wrong: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"Id {wrong} at position 12 .*vocabulary of 7"):
        write_tokens(tmp_path / "ids.bin", [np.zeros(10, int), np.array([1, 6, wrong])], 7)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("data") / "set")


def test_a_prepared_directory_opens(directory: Path) -> None:
    for verify in (True, False):
        dataset = open_dataset(directory, verify)
        assert isinstance(dataset, Dataset)
        np.testing.assert_array_equal(dataset.train, np.arange(300) % 7)
        np.testing.assert_array_equal(dataset.val, np.arange(30) % 7)
        assert (dataset.vocab_size, train_bytes(dataset), dataset.val_bytes) == (7, 300, 30)
        with pytest.raises(ValueError, match="read-only"):
            dataset.train[0] = 1


@settings(deadline=None)
@given(
    name=st.sampled_from(["train.bin", "val.bin", "tokenizer.json", "data.json"]), data=st.data()
)
def test_a_flipped_bit_is_found_and_named(directory: Path, name: str, data: st.DataObject) -> None:
    file = directory / name
    whole = file.read_bytes()
    at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    try:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        with pytest.raises(UserError, match=name):
            open_dataset(directory)
    finally:
        file.write_bytes(whole)


@settings(deadline=None)
@given(at=st.integers(0, HEADER_BYTES - 1), bit=st.integers(0, 7))
def test_a_damaged_header_never_raises_anything_else(directory: Path, at: int, bit: int) -> None:
    """Without the checksums a flip inside a number may pass, but nothing may crash."""
    whole = (directory / "train.bin").read_bytes()
    file = directory.parent / "flipped.bin"
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
    with contextlib.suppress(UserError):
        assert len(open_tokens(file)[0]) == 300


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda raw: raw[:-1], "300 ids take 300 bytes .* 299"),
        (lambda raw: raw + b"\0", "300 ids take 300 bytes .* 301"),
        (lambda raw: raw[:HEADER_BYTES], "300 ids take 300 bytes .* 0"),
        (lambda raw: raw[: HEADER_BYTES // 2], "damaged header"),
        (lambda raw: raw.replace(b'"version": 1', b'"version": 2'), "damaged header"),
        (lambda raw: raw.replace(b'"count": 300', b'"count": 3e2'), "damaged header"),
        (lambda raw: raw.replace(b'"sha256"', b'"sha257"'), "damaged header"),
        (lambda raw: raw[HEADER_BYTES:], "nanoGPT"),
        (lambda raw: b"", "nanoGPT"),
    ],
)
def test_a_truncated_or_foreign_token_file_is_refused(
    directory: Path, tmp_path: Path, change, named: str
) -> None:
    (tmp_path / "ids.bin").write_bytes(change((directory / "train.bin").read_bytes()))
    with pytest.raises(UserError, match=named) as caught:
        open_tokens(tmp_path / "ids.bin")
    assert str(tmp_path / "ids.bin") in str(caught.value)


def test_missing_files_are_named(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is not a prepared directory"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no token file"):
        open_tokens(tmp_path / "ids.bin")
    write_tokens(tmp_path / "ids.bin", [], 7)
    with pytest.raises(UserError, match="holds no ids"):
        open_tokens(tmp_path / "ids.bin")


def test_splits_with_different_vocabularies_are_refused(directory: Path) -> None:
    whole = (directory / "val.bin").read_bytes()
    try:
        write_tokens(directory / "val.bin", [np.arange(8)], 8)
        with pytest.raises(UserError, match="train.bin has 7 .* val.bin 8"):
            open_dataset(directory, verify=False)
    finally:
        (directory / "val.bin").write_bytes(whole)


@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
def test_ids_beyond_the_vocabulary_are_refused_even_if_checksums_match(
    name: str, tmp_path: Path
) -> None:
    """As written by a program that does not check its ids."""
    path = prepared(tmp_path / "data")
    content = bytearray((path / name).read_bytes())
    content[-1] = 7
    (path / name).write_bytes(content)
    directories.write_manifest(path)
    with pytest.raises(UserError, match=rf"{name} has the id 7.*has the ids 0 to 6"):
        open_dataset(path)


def test_the_header_is_readable_text(directory: Path) -> None:
    magic, rest = (directory / "train.bin").read_bytes()[:HEADER_BYTES].split(b"\n", 1)
    assert magic == b"jaxgpt tokens"
    assert json.loads(rest)["count"] == 300

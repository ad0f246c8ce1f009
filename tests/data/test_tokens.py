"""Token files say when they are damaged; batches depend on (seed, step) alone and leave nothing out."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.data.tokens import (
    FEW_WINDOWS,
    HEADER_BYTES,
    Dataset,
    batch,
    eval_windows,
    open_dataset,
    open_tokens,
    write_tokens,
)
from jaxgpt.errors import UserError
from jaxgpt.system import atomic_files


def prepared(path: Path, ids: int = 300) -> Path:
    with atomic_files.new_directory(path) as partial:
        write_tokens(partial / "train.bin", [np.arange(ids) % 7], 7, len)
        write_tokens(partial / "val.bin", [np.arange(30) % 7], 7, len)
        (partial / "tokenizer.json").write_text('["a", "b", "c", "d", "e", "f", "g"]')
        (partial / "data.json").write_text("{}")
    return path


def starts(batch_: np.ndarray) -> np.ndarray:
    """Where in np.arange each row was taken from."""
    np.testing.assert_array_equal(
        batch_ - batch_[:, :1], np.tile(np.arange(batch_.shape[1]), (len(batch_), 1))
    )
    return batch_[:, 0]


# Token files


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
def test_ids_are_written_as_narrow_as_they_go(vocab_size: int, dtype: str, tmp_path: Path) -> None:
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
        assert (dataset.vocab_size, dataset.train_bytes, dataset.val_bytes) == (7, 300, 30)
        with pytest.raises(ValueError, match="read-only"):
            dataset.train[0] = 1


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
def test_a_token_file_that_is_cut_or_foreign(
    directory: Path, tmp_path: Path, change, named: str
) -> None:
    (tmp_path / "ids.bin").write_bytes(change((directory / "train.bin").read_bytes()))
    with pytest.raises(UserError, match=named) as caught:
        open_tokens(tmp_path / "ids.bin")
    assert str(tmp_path / "ids.bin") in str(caught.value)


def test_what_is_not_there(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is no prepared directory"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no token file"):
        open_tokens(tmp_path / "ids.bin")
    write_tokens(tmp_path / "ids.bin", [], 7)
    with pytest.raises(UserError, match="holds no ids"):
        open_tokens(tmp_path / "ids.bin")


def test_splits_with_different_vocabularies(directory: Path) -> None:
    whole = (directory / "val.bin").read_bytes()
    try:
        write_tokens(directory / "val.bin", [np.arange(8)], 8)
        with pytest.raises(UserError, match="train.bin has 7 .* val.bin 8"):
            open_dataset(directory, verify=False)
    finally:
        (directory / "val.bin").write_bytes(whole)


# Batches


@given(
    length=st.integers(8, 300),
    context=st.integers(1, 4),
    size=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_epoch_has_each_window_once(length: int, context: int, size: int, seed: int) -> None:
    tokens = np.arange(length, dtype=np.uint16)
    windows = (length - context) // context
    steps = -(-3 * windows // size)
    rows = [
        batch(tokens, seed=seed, step=s, batch_size=size, context_length=context)
        for s in range(steps)
    ]
    first = starts(np.concatenate(rows))
    for epoch in range(3):
        offset = first[epoch * windows : (epoch + 1) * windows].min()
        assert 0 <= offset < context
        expected = offset + context * np.arange(windows)
        np.testing.assert_array_equal(
            np.sort(first[epoch * windows : (epoch + 1) * windows]), expected
        )


@pytest.mark.parametrize("windows", [FEW_WINDOWS - 1, FEW_WINDOWS, 3 * FEW_WINDOWS])
def test_long_splits_too_and_every_epoch_otherwise(windows: int) -> None:
    tokens = np.arange(2 * (windows + 1))
    size = 1000
    steps = -(-2 * windows // size)
    first = starts(
        np.concatenate(
            [batch(tokens, seed=1, step=s, batch_size=size, context_length=2) for s in range(steps)]
        )
    )
    orders = first[:windows] // 2, first[windows : 2 * windows] // 2
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(windows))
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.1
    assert (orders[0] == orders[1]).mean() < 0.01
    assert abs(np.corrcoef(*orders)[0, 1]) < 0.1


@given(
    step=st.integers(0, 10**6), seed=st.integers(0, 9), hosts=st.sampled_from([1, 2, 3, 4, 6, 12])
)
def test_the_order_does_not_depend_on_the_hosts(step: int, seed: int, hosts: int) -> None:
    tokens = np.arange(100, dtype=np.uint8)
    whole = batch(tokens, seed=seed, step=step, batch_size=12, context_length=5)
    share = 12 // hosts
    parts = [
        batch(
            tokens,
            seed=seed,
            step=step,
            batch_size=12,
            context_length=5,
            rows=slice(host * share, (host + 1) * share),
        )
        for host in range(hosts)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert whole.dtype == np.int32
    assert whole.shape == (12, 6)


@pytest.mark.parametrize("length", [1000, 5 * 2 * FEW_WINDOWS])
def test_resuming_is_asking_for_the_step(length: int) -> None:
    tokens = np.arange(length)
    run = [batch(tokens, seed=3, step=s, batch_size=7, context_length=5) for s in range(60)]
    for step in (59, 0, 31):
        np.testing.assert_array_equal(
            batch(tokens, seed=3, step=step, batch_size=7, context_length=5), run[step]
        )


def test_the_order_is_the_same_on_every_machine() -> None:
    """If this fails after an upgrade, runs begun before it resume with other data: say so in the changelog."""
    short = batch(np.arange(1000), seed=1337, step=2, batch_size=6, context_length=8)
    assert starts(short).tolist() == [380, 316, 716, 348, 908, 300]
    long = batch(np.arange(10**6), seed=1337, step=50_000, batch_size=6, context_length=8)
    assert starts(long).tolist() == [485076, 72684, 508, 134708, 731188, 506604]


def test_seeds_and_epochs_differ() -> None:
    tokens = np.arange(10_000)
    seen = {
        tuple(starts(batch(tokens, seed=seed, step=step, batch_size=8, context_length=10)))
        for seed in range(10)
        for step in range(10)
    }
    assert len(seen) == 100


def test_each_epoch_cuts_the_text_elsewhere() -> None:
    tokens = np.arange(1000)
    offsets = [
        batch(tokens, seed=0, step=s, batch_size=90, context_length=11).min() % 11
        for s in range(40)
    ]
    assert len(set(offsets)) == 11


@pytest.mark.parametrize(
    ("length", "enough"), [(0, False), (1, False), (15, False), (16, True), (17, True)]
)
def test_a_text_shorter_than_two_contexts(length: int, enough: bool) -> None:
    tokens = np.arange(length)
    if enough:
        assert batch(tokens, seed=0, step=0, batch_size=3, context_length=8).shape == (3, 9)
    else:
        with pytest.raises(UserError, match=f"{length} tokens.* 8 .*16"):
            batch(tokens, seed=0, step=0, batch_size=3, context_length=8)


@pytest.mark.parametrize("seed", [-1, 1 << 32])
def test_a_seed_out_of_range(seed: int) -> None:
    with pytest.raises(UserError, match=str(seed)):
        batch(np.arange(100), seed=seed, step=0, batch_size=3, context_length=8)


@given(length=st.integers(2, 200), size=st.integers(1, 9), context=st.integers(1, 20))
def test_evaluation_has_every_target_once(length: int, size: int, context: int) -> None:
    tokens = np.arange(1, length + 1, dtype=np.uint16)
    targets = []
    for ids, mask in eval_windows(tokens, batch_size=size, context_length=context):
        assert (ids.shape, ids.dtype, mask.shape, mask.dtype) == (
            (size, context + 1),
            np.int32,
            (size, context),
            bool,
        )
        assert mask.any()
        np.testing.assert_array_equal(ids[:, 1:][mask], ids[:, :-1][mask] + 1)
        assert not ids[:, 1:][~mask].any()
        targets += ids[:, 1:][mask].tolist()
    assert targets == list(range(2, length + 1))


@pytest.mark.parametrize("length", [0, 1])
def test_nothing_to_evaluate(length: int) -> None:
    with pytest.raises(UserError, match=f"{length} tokens"):
        next(eval_windows(np.arange(length), batch_size=2, context_length=4))


def test_the_header_can_be_read_by_people(directory: Path) -> None:
    magic, rest = (directory / "train.bin").read_bytes()[:HEADER_BYTES].split(b"\n", 1)
    assert magic == b"jaxgpt tokens"
    assert json.loads(rest)["count"] == 300

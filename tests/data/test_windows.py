"""Documents are packed into windows: each once, whole if it fits, in few windows."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.data import packing
from jaxgpt.data.packing import Spans, cut, documents, windows_of
from jaxgpt.data.prepare import prepare
from jaxgpt.data.tokenizer_files import load
from jaxgpt.data.tokens import Dataset
from jaxgpt.data.windows import TextBatch, Windows, make_windows, split_of
from jaxgpt.errors import UserError

EOT = 0
IDS = np.array([5, 6, 7, EOT, 8, EOT, EOT, 9, 10, 11, 12, 13, 14, 15, EOT], np.uint16)


def texts(spans: Spans) -> list[list[int]]:
    return [IDS[a:b].tolist() for a, b in zip(*(part.tolist() for part in spans), strict=True)]


def test_an_end_of_text_closes_a_document_and_opens_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = [[5, 6, 7, 0], [0, 8, 0], [0, 0], [0, 9, 10, 11, 12, 13, 14, 15, 0]]
    assert texts(documents(IDS, EOT)) == expected
    monkeypatch.setattr(packing, "CHUNK", 4)
    assert texts(documents(IDS, EOT)) == expected
    assert sum(documents(IDS, EOT).targets) == len(IDS) - 1


def test_a_long_document_is_cut_so_that_every_target_stays() -> None:
    spans = cut(documents(IDS, EOT), 3)
    assert texts(spans)[-3:] == [[0, 9, 10, 11], [11, 12, 13, 14], [14, 15, 0]]
    assert sum(spans.targets) == len(IDS) - 1


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(20, 24))
@settings(deadline=None)
def test_windows_never_overflow_and_are_few(sizes: list[int], room: int) -> None:
    filled = np.bincount(windows_of(np.array(sizes), room), weights=sizes)
    assert filled.min() > 0
    assert filled.max() <= room
    assert len(filled) <= 11 / 9 * -(-sum(sizes) // room) + 6 / 9 + len(sizes) * (room < 2 * 20)
    assert (np.sort(filled)[:2].sum() > room) or len(filled) == 1  # no two fit into one


def windows(pack: str = "restart", length: int = 5) -> Windows:
    return make_windows(IDS, cut(documents(IDS, EOT), length), length, pack)


def test_a_window_has_its_documents_side_by_side() -> None:
    packed = windows()
    batch = packed.rows(np.array([2, -1]))
    np.testing.assert_array_equal(
        np.stack(batch),
        [
            [[0, 8, 13, 14, 15], [0] * 5],
            [[8, 0, 14, 15, 0], [0] * 5],
            [[1, 1, 1, 1, 1], [0] * 5],
            [[1, 1, 2, 2, 2], [0] * 5],
            [[0, 1, 0, 1, 2], [0] * 5],
        ],
    )
    assert windows("continue").rows(np.array([0])).positions_bt is None
    assert packed.padding_share == pytest.approx(1 - 14 / 15)


def counted(batches: list[TextBatch]) -> list[tuple[int, int]]:
    """The ids that count as targets, each after its input."""
    pairs = [(b.tokens_bt[b.target_mask_bt], b.targets_bt[b.target_mask_bt]) for b in batches]
    return sorted((int(a), int(b)) for x, y in pairs for a, b in zip(x, y, strict=True))


def test_every_target_occurs_once_in_an_evaluation_and_in_an_epoch() -> None:
    packed, expected = windows(), sorted(zip(IDS[:-1].tolist(), IDS[1:].tolist(), strict=True))
    assert counted(list(packed.eval_batches(2))) == expected
    for epoch in range(2):
        steps = range(len(packed) * epoch, len(packed) * (epoch + 1))
        one_by_one = [packed.batch(seed=3, step=step, batch_size=1) for step in steps]
        assert counted(one_by_one) == expected


def test_a_batch_depends_only_on_seed_and_step() -> None:
    first, again, other = (
        np.stack(windows().batch(seed=seed, step=7, batch_size=6)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.fixture
def fables(tmp_path: Path) -> Dataset:
    text = "".join(f'{{"text": "fable {i} {"x" * (i % 9)}"}}\n' for i in range(60))
    (tmp_path / "fables.jsonl").write_text(text)
    return prepare(
        [str(tmp_path / "fables.jsonl")], tmp_path / "data", tokenizer="bpe", vocab_size=260
    )


def test_the_separator_is_what_prepare_writes_between_documents(fables: Dataset) -> None:
    split = split_of(fables, "train", 32, "restart")
    assert isinstance(split, Windows)
    assert len(split.spans.starts) == np.count_nonzero(fables.train == load(fables.path).eot) + 1
    assert split_of(fables, "train", 32, "off") is fables.train


def test_a_tokenizer_without_an_end_of_text_is_refused(tmp_path: Path, fables: Dataset) -> None:
    by_byte = prepare([str(tmp_path / "fables.jsonl")], tmp_path / "bytes", tokenizer="byte")
    with pytest.raises(UserError, match="its byte tokenizer of 256 ids has no such id. Prepare"):
        split_of(by_byte, "train", 32, "restart")
    (fables.path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="data.pack is continue, .* there is no tokenizer in it"):
        split_of(fables, "train", 32, "continue")

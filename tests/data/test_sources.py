"""Text is read exactly as its source has it, in bounded pieces, or the fault is named with its place."""

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.data.bpe import train_bpe
from jaxgpt.data.pieces import Piece, safe_cut
from jaxgpt.data.sources import documents, known_bytes
from jaxgpt.errors import UserError


def texts(*sources: object, **options: Any) -> list[str]:
    """The texts of the documents."""
    whole = [""]
    for piece in documents([str(source) for source in sources], **options):
        whole[-1] += piece.text
        if piece.end is not None:
            whole.append("")
    assert whole.pop() == ""
    return whole


@contextlib.contextmanager
def small() -> Iterator[None]:
    """Shrink the limits, so that short texts are treated like long ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxgpt.data.pieces.PIECE_CHARACTERS", 7)
        patch.setattr("jaxgpt.data.pieces.CHUNK", 5)
        yield


# Text


@settings(deadline=None)
@given(text=st.text(min_size=1))
def test_pieces_are_the_exact_text(text: str) -> None:
    with small():
        pieces = list(documents(["-"], stdin=io.BytesIO(text.encode())))
    assert "".join(piece.text for piece in pieces) == text
    assert all(0 < len(piece.text) <= 7 for piece in pieces)
    assert [piece.start for piece in pieces] == [
        *np.cumsum([0, *(len(piece.text) for piece in pieces[:-1])])
    ]
    assert [piece.end for piece in pieces] == [None] * (len(pieces) - 1) + [""]


def test_a_file_is_read_unchanged(tmp_path: Path) -> None:
    text = "\ufeffline\r\nnext\rlast\n\n\x00\x1a😀 end"
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert texts(tmp_path / "a.txt") == [text]


@settings(deadline=None)
@given(
    lead=st.text(max_size=20),
    bad=st.sampled_from([b"\xff", b"\xc3(", b"\xe2\x82", b"\xed\xa0\x80", b"\x80"]),
)
def test_invalid_utf8_is_named_with_its_position(lead: str, bad: bytes) -> None:
    raw = lead.encode() + bad
    named = f"standard input is not UTF-8: byte 0x{bad[0]:02x} at position {len(lead.encode())} "
    with small(), pytest.raises(UserError, match=named):
        list(documents(["-"], stdin=io.BytesIO(raw)))
    with small():
        pieces = list(documents(["-"], errors="replace", stdin=io.BytesIO(raw)))
    assert "".join(piece.text for piece in pieces) == raw.decode("utf-8", "replace")


def test_errors_takes_one_of_two_values() -> None:
    with pytest.raises(UserError, match="ignore"):
        list(documents(["python-docs"], errors="ignore"))


# Where a text may be cut

WORDS = st.text("abcXYZ019'_-.,!?éß日語", min_size=1, max_size=6)
SPACES = st.text(" \n\t", min_size=1, max_size=3)


@settings(deadline=None)
@given(st.lists(st.tuples(WORDS, SPACES), min_size=1, max_size=30), st.integers(14, 40))
def test_the_pieces_of_a_text_have_the_tokens_of_the_whole(
    parts: list[tuple[str, str]], limit: int
) -> None:
    text = "".join(word + space for word, space in parts)
    cut, pieces = 0, []
    while len(text) - cut > limit:
        end = cut + safe_cut(text[cut : cut + limit + 1], limit)
        pieces.append(text[cut:end])
        cut = end
    pieces.append(text[cut:])
    assert all(0 < len(piece) <= limit for piece in pieces)
    np.testing.assert_array_equal(np.concatenate(BPE.encode_many(pieces)), BPE.encode(text))


BPE = train_bpe(
    iter(["abc XYZ  019\n\n abc XYZ\t\n 019 c' a'b _a b- ab., c! \n é ß  日語\n\n\n" * 9]), 330
)


def test_without_spaces_a_cut_is_at_the_limit() -> None:
    assert safe_cut("x" * 100, 60) == 60
    assert safe_cut("ab cd ef!", 8) == 5
    assert safe_cut("!! ?? ..", 7) == 5


# Files, folders, patterns


def tree(folder: Path) -> Path:
    for name in ("b.txt", "a/z.md", "a/b.txt", ".hidden", ".git/config", "c.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"text": "c"}\n' if name.endswith("jsonl") else name)
    (folder / "empty.py").touch()
    return folder


def test_a_folder_is_all_its_files_in_order(tmp_path: Path) -> None:
    assert texts(tree(tmp_path)) == ["a/b.txt", "a/z.md", "b.txt", "c"]


def test_a_pattern_is_the_files_it_matches_in_order(tmp_path: Path) -> None:
    tree(tmp_path)
    assert texts(tmp_path / "*.txt") == ["b.txt"]
    assert texts(tmp_path / "**/*.txt") == ["a/b.txt", "b.txt"]
    assert texts(tmp_path / "*") == ["b.txt", "c"]
    (tmp_path / "odd[1].txt").write_text("brackets")
    assert texts(tmp_path / "odd[1].txt") == ["brackets"]


def test_sources_come_in_the_order_given(tmp_path: Path) -> None:
    tree(tmp_path)
    stdin = io.BytesIO(b"from a pipe")
    assert texts(tmp_path / "b.txt", "-", tmp_path / "a", stdin=stdin) == [
        "b.txt",
        "from a pipe",
        "a/b.txt",
        "a/z.md",
    ]


def test_standard_input_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe")))
    assert texts("-") == ["from a pipe"]


@pytest.mark.parametrize("source", ["missing.txt", "*.none", "", "x" * 5000])
def test_a_source_that_does_not_exist_is_refused(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="There is no file, no folder"):
        texts(source)


@pytest.mark.parametrize("name", ["empty.txt", "empty.jsonl", "blank.jsonl", "folder", "-"])
def test_an_empty_source_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "blank.jsonl").write_text('\n{"text": ""}\n{"text": null}\n')
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "empty.txt").touch()
    with pytest.raises(
        UserError, match="is empty: there is no text in it" if name != "folder" else "empty"
    ):
        texts(name if name == "-" else tmp_path / name, stdin=io.BytesIO())


def test_a_file_of_ids_is_not_mistaken_for_text(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(b"1\0002\000")
    for source in (tmp_path, tmp_path / "train.bin"):
        with pytest.raises(UserError, match=r"train\.bin has the name of a file of ids"):
            texts(source)


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.txt").write_text("a")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"a\.txt cannot be read: Permission denied"):
        texts(tmp_path / "a.txt")


# Records


def json_lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_json_lines(tmp_path: Path) -> None:
    file = json_lines(
        tmp_path / "a.jsonl",
        {"text": "one\n"},
        {"text": ""},
        {"text": "zwei ü 😀", "body": 3},
        {"text": None},
    )
    assert texts(file) == ["one\n", "zwei ü 😀"]
    assert list(documents([str(file)]))[1] == Piece("zwei ü 😀", f"{file} line 3", 0, "\n")
    assert texts(json_lines(tmp_path / "b.ndjson", {"body": "b"}), field="body") == ["b"]


def test_a_long_record_comes_in_pieces(tmp_path: Path) -> None:
    with small():
        pieces = list(documents([str(json_lines(tmp_path / "a.jsonl", {"text": "a bc " * 9}))]))
    assert [piece.end for piece in pieces] == [None] * (len(pieces) - 1) + ["\n"]
    assert "".join(piece.text for piece in pieces) == "a bc " * 9
    assert len(pieces) > 6


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        (b'{"text": "a"}\n{"text": \n', r"a\.jsonl line 2 is not JSON"),
        (b'{"text": "a"}\n\n["text"]\n', r"a\.jsonl line 3: .* a list"),
        (
            b'{"text": "a"}\n{"body": "b", "title": 1}',
            r"a\.jsonl line 2 has no field text; there are: body, title",
        ),
        (b'{"text": ["a"]}', r"a\.jsonl line 1: field text .* a list"),
        (b'{"text": "a"}\n{"text": "\xff"}', r"a\.jsonl is not UTF-8: byte 0xff at position 24 "),
        (
            b'{"text": "a\\ud800"}',
            r"a\.jsonl line 1: half a surrogate pair, U\+D800, at character 1",
        ),
        (b"[" * 100_000, r"a\.jsonl line 1 is not JSON"),
    ],
)
def test_bad_records_are_named(raw: bytes, named: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(raw)
    with pytest.raises(UserError, match=named):
        texts(tmp_path / "a.jsonl")


def test_bad_characters_in_records_can_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a\\ud800"}\n{"text": "\xff"}')
    assert texts(tmp_path / "a.jsonl", errors="replace") == ["a?", "\ufffd"]


@pytest.fixture
def parquet() -> Callable[[Path], Path]:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    def write(path: Path) -> Path:
        rows = {
            "text": [f"text {i}" for i in range(600)],
            "body": [f"body {i}" for i in range(600)],
        }
        parquet.write_table(pyarrow.table(rows), path)
        return path

    return write


def test_parquet(parquet: Callable[[Path], Path], tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet")
    assert texts(file, field="body") == [f"body {i}" for i in range(600)]
    assert list(documents([str(file)]))[599].where == f"{file} row 600"
    with pytest.raises(UserError, match=r"a\.parquet has no field zz; there are: text, body"):
        texts(file, field="zz")
    file.write_bytes(b"PAR1 and nothing")
    with pytest.raises(UserError, match=r"a\.parquet is not a parquet file"):
        texts(file)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(UserError, match="needs pyarrow.*: pip install --upgrade pyarrow"):
        texts(tmp_path / "a.parquet")


def test_a_dataset_of_the_library(datasets: None, tmp_path: Path) -> None:
    json_lines(tmp_path / "train.jsonl", {"text": "one"}, {"text": "two"})
    json_lines(tmp_path / "validation.jsonl", {"text": "three"})
    assert texts(f"hf:{tmp_path}") == ["one", "two"]
    assert texts(f"hf:{tmp_path}::validation") == ["three"]
    assert texts(f"hf:{tmp_path}:default:train") == ["one", "two"]


def test_a_dataset_of_the_library_in_parquet(
    datasets: None, parquet: Callable[[Path], Path], tmp_path: Path
) -> None:
    parquet(tmp_path / "train.parquet")
    assert texts(f"hf:{tmp_path}", field="body") == [f"body {i}" for i in range(600)]


def test_a_missing_dataset_is_refused(datasets: None, tmp_path: Path) -> None:
    json_lines(tmp_path / "train.jsonl", {"text": "one"})
    for source, named in [
        (f"hf:{tmp_path}::test", "Bad split"),
        (f"hf:{tmp_path}:odd", "odd"),
        (f"hf:{tmp_path / 'none'}", "cannot be opened"),
        ("hf:", "must read hf:NAME"),
        ("hf:a:b:c:d", "must read hf:NAME"),
    ]:
        with pytest.raises(UserError, match=named) as caught:
            texts(source)
        assert source in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="record 1 has no field zz; there are: text"):
        texts(f"hf:{tmp_path}", field="zz")


# What there is without a source, and how much of it


def test_the_built_in_corpus_is_english() -> None:
    found = texts("python-docs")
    assert len(found) > 50
    assert sum(map(len, found)) > 400_000
    assert sum(text.count(" the ") for text in found) > 1000


def test_the_size_of_sources_is_known_before_reading(tmp_path: Path) -> None:
    tree(tmp_path)
    assert known_bytes([str(tmp_path / "a"), str(tmp_path / "b.txt")]) == len(
        "a/z.md" + "a/b.txt" + "b.txt"
    )
    for unknown in ("-", "python-docs", "hf:x", str(tmp_path)):
        assert known_bytes([str(tmp_path / "b.txt"), unknown]) is None

"""Prepared data decode to the original text, split in the right place; otherwise nothing is written."""

import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.data import encoding, progress
from jaxgpt.data.prepare import prepare
from jaxgpt.data.tokenizer import train_char
from jaxgpt.data.tokenizer_files import load
from jaxgpt.data.tokens import Dataset, open_dataset
from jaxgpt.errors import UserError
from tests.helpers import train_bytes

TEXT = "".join(f"{i}: the naïve 日本 fox isn't here,\n\tbut there 😀.\n" for i in range(200))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in.txt").write_bytes(TEXT.encode())
    return tmp_path / "in.txt"


def decoded(dataset: Dataset) -> str:
    return load(dataset.path).decode(np.concatenate([dataset.train, dataset.val]))


# The text


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe"])
def test_the_text_round_trips(tokenizer: str, source: Path, tmp_path: Path) -> None:
    made = prepare([str(source)], tmp_path / "out", tokenizer=tokenizer, vocab_size=300)
    dataset = open_dataset(tmp_path / "out")
    assert decoded(dataset) == TEXT
    assert load(tmp_path / "out").kind == tokenizer
    assert dataset.vocab_size == made.vocab_size == load(tmp_path / "out").vocab_size
    assert train_bytes(dataset) + dataset.val_bytes == len(TEXT.encode())
    assert dataset.val_bytes == len(load(tmp_path / "out").decode_bytes(dataset.val))
    assert len(dataset.train) == int(0.9 * (len(dataset.train) + len(dataset.val)))


@pytest.mark.parametrize("length", [1001, 1009, 1010, 1115, 9999])
def test_the_split_is_nanogpts(length: int, tmp_path: Path) -> None:
    text = (TEXT * 2)[:length]
    (tmp_path / "in.txt").write_bytes(text.encode())
    dataset = prepare([str(tmp_path / "in.txt")], tmp_path / "out", val=0.1)
    characters = sorted(set(text))
    number = {character: i for i, character in enumerate(characters)}
    np.testing.assert_array_equal(dataset.train, [number[c] for c in text[: int(length * 0.9)]])
    np.testing.assert_array_equal(dataset.val, [number[c] for c in text[int(length * 0.9) :]])
    assert dataset.val_bytes == len(text[int(length * 0.9) :].encode())


@given(
    texts=st.lists(st.text(min_size=1), min_size=1, max_size=5),
    tokenizer=st.sampled_from(["char", "byte", "bpe"]),
    together=st.sampled_from([1, 10, 1 << 20]),
)
@settings(max_examples=30, deadline=None)
def test_random_records_round_trip(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], tokenizer: str, together: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    texts = ["long enough", *texts]
    (folder / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "TOGETHER", together)
        dataset = prepare(
            [str(folder / "in.jsonl")], folder / "out", tokenizer=tokenizer, vocab_size=270, val=0.5
        )
    assert decoded(dataset) == ("<|endoftext|>" if tokenizer == "bpe" else "\n").join(texts)
    ids = np.concatenate([dataset.train, dataset.val])
    assert (ids == load(dataset.path).eot).sum() == (len(texts) - 1 if tokenizer == "bpe" else 0)
    between = 0 if tokenizer == "bpe" else len(texts) - 1
    assert train_bytes(dataset) + dataset.val_bytes == len("".join(texts).encode()) + between


def test_an_end_of_text_separates_files_if_the_tokenizer_has_one(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name * 9)
    files = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    assert decoded(prepare(files, tmp_path / "byte", tokenizer="byte")) == "a.txt" * 9 + "b.txt" * 9
    merged = decoded(prepare(files, tmp_path / "bpe", tokenizer="bpe", vocab_size=257))
    assert merged == "a.txt" * 9 + "<|endoftext|>" + "b.txt" * 9


def test_special_token_text_stays_text(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("one<|endoftext|>two" * 20)
    dataset = prepare([str(tmp_path / "in.txt")], tmp_path / "out", tokenizer="bpe", vocab_size=300)
    assert load(tmp_path / "out").eot not in dataset.train
    assert decoded(dataset) == "one<|endoftext|>two" * 20


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_standard_input_is_read_once(
    tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    assert decoded(prepare(["-"], tmp_path / "out", tokenizer=tokenizer, vocab_size=300)) == TEXT


def test_the_built_in_corpus(tmp_path: Path) -> None:
    dataset = prepare(["python-docs"], tmp_path / "out")
    assert train_bytes(dataset) > 400_000
    assert "lambda" in decoded(dataset)


def test_a_given_tokenizer_is_used(source: Path, tmp_path: Path) -> None:
    first = prepare([str(source)], tmp_path / "first", tokenizer="bpe", vocab_size=300)
    for given_as in ("first", "first/tokenizer.json"):
        out = tmp_path / given_as.replace("/", "-") / "again"
        again = prepare([str(source)], out, tokenizer=str(tmp_path / given_as))
        np.testing.assert_array_equal(again.train, first.train)


def test_merges_are_learned_from_a_bounded_sample(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxgpt.data.pieces.PIECE_CHARACTERS", 100)
    whole = prepare([str(source)], tmp_path / "whole", tokenizer="bpe", vocab_size=1000).vocab_size
    for bound in ("MERGES_FROM", "MERGES_WORDS"):
        with monkeypatch.context() as patch:
            patch.setattr(encoding, bound, 50)
            less = prepare([str(source)], tmp_path / bound, tokenizer="bpe", vocab_size=1000)
        assert less.vocab_size < whole
        assert decoded(less) == TEXT


def test_the_record_of_what_was_prepared(source: Path, tmp_path: Path) -> None:
    dataset = prepare([str(source)], tmp_path / "out", val=0.25)
    about = json.loads((tmp_path / "out" / "data.json").read_text())
    assert (about["sources"], about["val"], about["tokenizer"]) == ([str(source)], 0.25, "char")
    assert about["vocab_size"] == dataset.vocab_size
    assert about["splits"]["val"]["count"] == len(dataset.val)
    assert about["splits"]["train"]["sha256"] == dataset.train_sha256
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"train.bin", "val.bin", "tokenizer.json", "data.json", "manifest.json"}


# nanoGPT's files


def nanogpt(folder: Path, train: Any = range(65), val: Any = (1, 2, 64)) -> Path:
    folder.mkdir()
    np.array(train, "<u2").tofile(folder / "train.bin")
    np.array(val, "<u2").tofile(folder / "val.bin")
    (folder / "input.txt").write_text("not used")
    return folder


def test_nanogpts_files_keep_their_split(tmp_path: Path) -> None:
    folder = nanogpt(tmp_path / "nanogpt")
    for name, sources in [
        ("folder", [folder]),
        ("files", [folder / "val.bin", folder / "train.bin"]),
    ]:
        prepare([str(source) for source in sources], tmp_path / name)
        dataset = open_dataset(tmp_path / name)
        np.testing.assert_array_equal(dataset.train, range(65))
        np.testing.assert_array_equal(dataset.val, [1, 2, 64])
        assert (dataset.vocab_size, train_bytes(dataset), dataset.val_bytes) == (65, 0, 0)
        assert not (tmp_path / name / "tokenizer.json").exists()


def test_nanogpts_files_with_their_tokenizer(tmp_path: Path) -> None:
    characters = [chr(ord("0") + i) for i in range(70)]
    train_char(characters).save(tmp_path / "characters.json")
    folder = nanogpt(tmp_path / "nanogpt")
    dataset = prepare([str(folder)], tmp_path / "out", tokenizer=str(tmp_path / "characters.json"))
    assert (dataset.vocab_size, train_bytes(dataset), dataset.val_bytes) == (70, 65, 3)
    assert decoded(dataset) == "".join(characters[:65]) + "12p"
    train_char(characters[:64]).save(tmp_path / "less.json")
    with pytest.raises(UserError, match=r"train\.bin: Id 64 at position 64 .*vocabulary of 64"):
        prepare([str(folder)], tmp_path / "other", tokenizer=str(tmp_path / "less.json"))
    with pytest.raises(UserError, match="learnt from text"):
        prepare([str(folder)], tmp_path / "other", tokenizer="bpe")


def meta(characters: str) -> bytes:
    """A meta.pkl as nanoGPT writes it."""
    itos = dict(enumerate(characters))
    stoi = {character: index for index, character in itos.items()}
    return pickle.dumps({"vocab_size": len(itos), "itos": itos, "stoi": stoi})


def test_nanogpts_files_use_the_meta_next_to_them(tmp_path: Path) -> None:
    characters = "".join(chr(ord("0") + i) for i in range(70))
    folder = nanogpt(tmp_path / "nanogpt")
    (folder / "meta.pkl").write_bytes(meta(characters))
    dataset = prepare([str(folder)], tmp_path / "out")
    assert (dataset.vocab_size, train_bytes(dataset), dataset.val_bytes) == (70, 65, 3)
    assert decoded(dataset) == characters[:65] + "12p"
    (tmp_path / "less.pkl").write_bytes(meta(characters[:64]))
    with pytest.raises(UserError, match=r"train\.bin: Id 64 at position 64 .*vocabulary of 64"):
        prepare([str(folder)], tmp_path / "less", tokenizer=str(tmp_path / "less.pkl"))


def test_a_hostile_meta_next_to_nanogpts_files_is_refused(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    folder = nanogpt(tmp_path / "nanogpt")
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 1, "itos": Hostile()}))
    with pytest.raises(UserError, match=r"meta\.pkl .*more than plain values.* move it away"):
        prepare([str(folder)], tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()
    prepare([str(folder)], tmp_path / "bytes", tokenizer="byte")  # which leaves it closed
    assert not (tmp_path / "ran").exists()


def test_damaged_nanogpt_files_are_refused(tmp_path: Path) -> None:
    folder = nanogpt(tmp_path / "nanogpt")
    (folder / "val.bin").write_bytes(b"12345")
    with pytest.raises(UserError, match=r"val\.bin has 5 bytes, an odd number"):
        prepare([str(folder)], tmp_path / "out")
    (folder / "val.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"val\.bin has 0 bytes"):
        prepare([str(folder)], tmp_path / "out")
    with pytest.raises(UserError, match=r"train\.bin has the name of a file of ids"):
        prepare([str(folder / "train.bin")], tmp_path / "out")


def test_a_prepared_directory_is_not_prepared_again(source: Path, tmp_path: Path) -> None:
    prepare([str(source)], tmp_path / "out")
    with pytest.raises(UserError, match="prepared already"):
        prepare([str(tmp_path / "out")], tmp_path / "again")


# Faults


def narrow(path: Path) -> str:
    """A byte-level tokenizer file with only some of the bytes: the library drops the others."""
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={c: i for i, c in enumerate("abcĠ")}, merges=[])
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.save(str(path))
    return str(path)


@pytest.mark.parametrize(
    ("arrange", "named"),
    [
        (lambda at: {"sources": []}, "no text"),
        (lambda at: {"sources": [f"{at}/missing"]}, "missing"),
        (lambda at: {"sources": [f"{at}/empty"]}, "empty is empty"),
        (lambda at: {"sources": [f"{at}/short"]}, "its 3 tokens 2 are .* and 1 for validation"),
        (
            lambda at: {"sources": [f"{at}/latin1"]},
            r"latin1 is not UTF-8: byte 0xe9 at position 3 ",
        ),
        (lambda at: {"val": 0.0}, "val .* 0.0"),
        (lambda at: {"val": 1}, "val .* 1"),
        (lambda at: {"tokenizer": "word"}, "no tokenizer word"),
        (lambda at: {"tokenizer": "bpe", "vocab_size": 100}, "vocab_size 100"),
        (
            lambda at: {"tokenizer": f"{at}/chars.json"},
            r"long: at character 70000 the char .*'é' \(U\+00E9\)",
        ),
        (
            lambda at: {"tokenizer": narrow(at / "narrow.json")},
            r"long: at character 70000 the bpe .*'é'",
        ),
        (
            lambda at: {"tokenizer": f"{at}/chars.json", "sources": [f"{at}/rows.jsonl"]},
            r"rows\.jsonl line 2: at character 1 .*'é'",
        ),
    ],
)
def test_faults_are_named_and_nothing_is_written(
    arrange: Callable[[Path], dict[str, Any]], named: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "short").write_text("abc")
    (tmp_path / "latin1").write_bytes("café noir".encode("latin-1"))
    (tmp_path / "long").write_text("abc ab cab" * 7000 + "é" + "abc" * 500)
    (tmp_path / "chars.json").write_text('["a", "b", "c", " ", "\\n"]')
    (tmp_path / "rows.jsonl").write_text('{"text": "abc"}\n{"text": "cé"}\n')
    options = {"sources": [str(tmp_path / "long")]} | arrange(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=named) as caught:
        prepare(out=tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_invalid_utf8_can_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "latin1").write_bytes("café noir".encode("latin-1") * 9)
    assert (
        decoded(prepare([str(tmp_path / "latin1")], tmp_path / "out", errors="replace"))
        == "caf\ufffd noir" * 9
    )


def test_a_directory_that_is_not_empty_is_left_alone(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not an empty directory"):
        prepare([str(source)], tmp_path)
    (tmp_path / "out").mkdir()
    assert decoded(prepare([str(source)], tmp_path / "out")) == TEXT


# What it costs, and what it shows


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads its memory where Linux keeps it"
)
def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    with (tmp_path / "in.txt").open("w") as file:
        for _ in range(100):
            file.write(TEXT * 100)
    size = (tmp_path / "in.txt").stat().st_size
    assert size > 90e6
    code = f"""
from jaxgpt.data.prepare import prepare
prepare([{str(tmp_path / "in.txt")!r}], {str(tmp_path / "out")!r}, tokenizer="char")
print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
"""
    peak = int(
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout
    )
    assert 10e6 < peak * 1024 < 150e6, f"{peak} kB for a text of {size} bytes"


def test_importing_is_light() -> None:
    heavy = "{'jax', 'grain', 'tokenizers', 'datasets', 'pyarrow', 'rich', 'torch'}"
    code = f"import sys, jaxgpt.data.prepare; print(*{heavy} & sys.modules.keys())"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert loaded.split() == []


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for name, screen, patience, seen in [
        ("quick", Screen(), 1000.0, False),
        ("nobody", io.StringIO(), 0.0, False),
        ("slow", Screen(), 0.0, True),
    ]:
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setattr(progress, "PATIENCE", patience)
        prepare([str(source)], tmp_path / name)
        assert ("encoding" in screen.getvalue()) == seen
        assert bool(screen.getvalue()) == seen

"""Pairs round-trip unchanged, or the fault is named with its place and nothing is written."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgpt.data.pairs
from jaxgpt.data import encoding, progress, tokens
from jaxgpt.data.kinds import data_kind
from jaxgpt.data.pair_sources import fields_of, known_pair_bytes, pairs
from jaxgpt.data.pairs import PairDataset, PairSplit, open_pairs
from jaxgpt.data.prepare import prepare
from jaxgpt.data.prepare_pairs import prepare_pairs
from jaxgpt.data.tokenizer_files import load
from jaxgpt.errors import UserError
from jaxgpt.system.unchanged import NO_FILES

Texts = list[tuple[str, str]]
PAIRS: Texts = [
    (f"{i} naïve 日本 foxes, isn't it? " + "so " * (i % 7), f"{i} Füchse 😀" + "!" * (i % 5))
    for i in range(100)
]


def tsv(path: Path, texts: Texts = PAIRS) -> str:
    path.write_text("".join(f"{source}\t{target}\n" for source, target in texts), newline="")
    return str(path)


def json_lines(path: Path, records: list[Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def decoded(dataset: PairDataset) -> Texts:
    source, target = load(dataset.source_tokenizer), load(dataset.target_tokenizer)
    return [
        (source.decode(split[i][0]), target.decode(split[i][1]))
        for split in (dataset.train, dataset.val)
        for i in range(len(split))
    ]


def read(*sources: str, **options: Any) -> Texts:
    return [(pair.source.text, pair.target.text) for pair in pairs(sources, **options)]


# The pairs


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe"])
@pytest.mark.parametrize("target_tokenizer", [None, "char", "byte", "bpe"])
def test_pairs_round_trip(tokenizer: str, target_tokenizer: str | None, tmp_path: Path) -> None:
    prepare_pairs(
        [tsv(tmp_path / "in.tsv")],
        tmp_path / "out",
        tokenizer=tokenizer,
        target_tokenizer=target_tokenizer,
        vocab_size=300,
        val=0.2,
    )
    dataset = open_pairs(tmp_path / "out")
    assert decoded(dataset) == PAIRS
    assert (len(dataset.train), len(dataset.val), dataset.left_out) == (80, 20, 0)
    source, target = load(dataset.source_tokenizer), load(dataset.target_tokenizer)
    assert (source.kind, target.kind) == (tokenizer, target_tokenizer or tokenizer)
    assert (dataset.target_tokenizer == dataset.source_tokenizer) == (target_tokenizer is None)
    assert dataset.source_vocab_size == source.vocab_size
    if target.kind == "bpe":
        assert dataset.start == dataset.end == target.eot
        assert dataset.target_vocab_size == target.vocab_size
    else:
        assert (dataset.start, dataset.end) == (target.vocab_size, target.vocab_size + 1)
        assert dataset.target_vocab_size == target.vocab_size + 2
    for split in (dataset.train, dataset.val):
        assert (split.start, split.end) == (dataset.start, dataset.end)
        each = [split[i] for i in range(len(split))]
        assert {side.dtype for pair in each for side in pair} == {np.dtype(np.int32)}
        np.testing.assert_array_equal(split.source_lengths, [len(source) for source, _ in each])
        np.testing.assert_array_equal(split.target_lengths, [len(target) for _, target in each])
        assert not any(np.isin([dataset.start, dataset.end], target).any() for _, target in each)
        with pytest.raises(IndexError):
            split[len(split)]
        with pytest.raises(ValueError, match="read-only"):
            split.ids[0] = 1


def test_one_tokenizer_is_made_from_both_sides_and_two_from_one_each(tmp_path: Path) -> None:
    source = tsv(tmp_path / "in.tsv", [("abc", "xy")] * 10)
    both = prepare_pairs([source], tmp_path / "both")
    assert (both.source_vocab_size, both.target_vocab_size, both.start) == (5, 7, 5)
    each = prepare_pairs([source], tmp_path / "each", target_tokenizer="char")
    assert (each.source_vocab_size, each.target_vocab_size, each.start) == (3, 4, 2)
    again = prepare_pairs([source], tmp_path / "again", tokenizer=str(both.source_tokenizer))
    assert again.train_sha256 == both.train_sha256


SIDE = st.text(
    st.characters(codec="utf-8", exclude_characters="\t\n\r\ufeff"), min_size=1, max_size=20
).filter(str.strip)


@given(
    texts=st.lists(st.tuples(SIDE, SIDE), min_size=2, max_size=8),
    tokenizer=st.sampled_from(["char", "byte", "bpe"]),
    together=st.sampled_from([1, 10, 1 << 20]),
)
@settings(max_examples=30, deadline=None)
def test_random_pairs_round_trip(
    tmp_path_factory: pytest.TempPathFactory, texts: Texts, tokenizer: str, together: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "TOGETHER", together)
        patch.setattr(tokens, "CHUNK", together)
        dataset = prepare_pairs(
            [tsv(folder / "in.tsv", texts)],
            folder / "out",
            tokenizer=tokenizer,
            vocab_size=270,
            val=0.5,
        )
    assert decoded(dataset) == texts
    assert len(dataset.train) == len(texts) // 2


def test_the_record_of_what_was_prepared(tmp_path: Path) -> None:
    source = tsv(tmp_path / "in.tsv")
    dataset = prepare_pairs([source], tmp_path / "out", val=0.25, target_tokenizer="byte")
    about = json.loads((tmp_path / "out" / "data.json").read_text())
    assert (about["kind"], about["sources"], about["val"]) == ("pairs", [source], 0.25)
    assert (about["tokenizer"], about["target_tokenizer"]) == ("char", "byte")
    assert (about["start"], about["end"]) == (256, 257) == (dataset.start, dataset.end)
    assert about["splits"]["val"]["ids"]["count"] == len(dataset.val.ids)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    splits = {f"{split}{kind}.bin" for split in ("train", "val") for kind in ("", ".offsets")}
    tokenizers = {"tokenizer.json", "target_tokenizer.json"}
    assert files == {*splits, *tokenizers, "data.json", "manifest.json"}
    assert data_kind(tmp_path / "out") == "pairs"


def test_the_checksum_covers_the_pairs_and_not_only_their_ids(tmp_path: Path) -> None:
    one, other = (
        prepare_pairs([tsv(tmp_path / f"{name}.tsv", [texts, ("a", "b")])], tmp_path / name)
        for name, texts in (("one", ("ab", "c")), ("other", ("a", "bc")))
    )
    np.testing.assert_array_equal(one.train.ids, other.train.ids)
    assert one.train_sha256 != other.train_sha256
    same = prepare_pairs([str(tmp_path / "one.tsv")], tmp_path / "same")
    assert same.train_sha256 == one.train_sha256


def test_long_pairs_can_be_left_out(tmp_path: Path) -> None:
    texts = [("a" * 9, "b"), ("a", "b" * 3), ("a" * 3, "b" * 4), ("aa", "b"), ("a", "b" * 9)] * 3
    source = tsv(tmp_path / "in.tsv", texts)
    dataset = prepare_pairs([source], tmp_path / "out", max_length=3, val=0.5)
    assert decoded(dataset) == [("a", "bbb"), ("aa", "b")] * 3
    assert dataset.left_out == 9
    with pytest.raises(UserError, match=r"too few pairs: of 0, .*--max-length"):
        prepare_pairs([source], tmp_path / "none", tokenizer="byte", max_length=1)
    with pytest.raises(UserError, match="max_length must be positive, but is 0"):
        prepare_pairs([source], tmp_path / "none", max_length=0)


def test_offsets_may_need_more_than_four_bytes(tmp_path: Path) -> None:
    offsets = [0, 1 << 31, (1 << 32) + 5]
    tokens.write_tokens(tmp_path / "offsets.bin", [np.array(offsets)], offsets[-1] + 1)
    assert tokens.open_tokens(tmp_path / "offsets.bin")[0].tolist() == offsets


# Where pairs come from


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n \n"])
def test_line_endings_of_every_system_are_read(
    ending: str, mark: str, last: str, tmp_path: Path
) -> None:
    lines = ending.join(["one\teins", " two  \tzwei\u2028drei"]) + last.replace("\n", ending)
    (tmp_path / "in.tsv").write_bytes((mark + lines).encode())
    assert read(str(tmp_path / "in.tsv")) == [("one", "eins"), (" two  ", "zwei\u2028drei")]


def test_records_with_two_fields(tmp_path: Path) -> None:
    flat = [{"en": source, "de": target, "id": 3} for source, target in PAIRS]
    assert read(json_lines(tmp_path / "a.jsonl", flat), fields=("en", "de")) == PAIRS
    turned = [(target, source) for source, target in PAIRS]
    assert read(str(tmp_path / "a.jsonl"), fields=("de", "en")) == turned
    assert read(tsv(tmp_path / "a.tsv"), fields=("target", "source")) == turned
    nested = [{"translation": pair, "id": "3"} for pair in flat]
    fields = ("translation.en", "translation.de")
    assert read(json_lines(tmp_path / "b.ndjson", nested), fields=fields) == PAIRS
    dotted = [dict(zip(fields, pair, strict=True)) for pair in PAIRS]
    assert read(json_lines(tmp_path / "c.jsonl", dotted), fields=fields) == PAIRS
    marked = tmp_path / "marked.jsonl"
    marked.write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.jsonl").read_bytes())
    assert read(str(marked), fields=("en", "de")) == PAIRS


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    records = [{"en": source, "de": target} for source, target in PAIRS]
    table = {"translation": records, "en": [source for source, _ in PAIRS], "n": [*range(100)]}
    parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    assert read(str(tmp_path / "a.parquet"), fields=("translation.en", "translation.de")) == PAIRS
    assert read(str(tmp_path / "a.parquet"), fields=("en", "translation.de")) == PAIRS
    with pytest.raises(UserError, match=r"a\.parquet has no field de; .*: translation, en, n"):
        read(str(tmp_path / "a.parquet"), fields=("en", "de"))
    named = r"row 1 has no field translation\.fr; .*: translation\.en, translation\.de"
    with pytest.raises(UserError, match=named):
        read(str(tmp_path / "a.parquet"), fields=("translation.en", "translation.fr"))


def test_a_dataset_of_the_library(datasets: None, tmp_path: Path) -> None:
    nested = [{"translation": {"en": source, "de": target}} for source, target in PAIRS]
    json_lines(tmp_path / "train.jsonl", nested)
    fields = ("translation.en", "translation.de")
    assert read(f"hf:{tmp_path}", fields=fields) == PAIRS
    with pytest.raises(UserError, match=r"record 1 has no field source; .*: translation\.en"):
        read(f"hf:{tmp_path}")


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_standard_input_is_read_once(
    tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = Path(tsv(tmp_path / "in.tsv")).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
    dataset = prepare_pairs(["-"], tmp_path / "out", tokenizer=tokenizer, vocab_size=300)
    assert decoded(dataset) == PAIRS


def test_several_sources_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    inside = tsv(tmp_path / "folder" / "b.tsv", PAIRS[50:])
    json_lines(tmp_path / "folder" / "c.jsonl", [{"source": "s", "target": "t"}])
    first = tsv(tmp_path / "a.tsv", PAIRS[:50])
    assert read(first, str(tmp_path / "folder")) == [*PAIRS, ("s", "t")]
    assert read(str(tmp_path / "*.tsv"), inside) == PAIRS
    sizes = [Path(file).stat().st_size for file in (first, inside)]
    assert known_pair_bytes([first, inside]) == sum(sizes)
    assert known_pair_bytes([first, "dates"]) is None


@pytest.mark.parametrize(
    ("sources", "field", "expected"),
    [
        (["a.txt"], "text", None),
        (["a.jsonl", "hf:name.tsv"], "body", None),
        (["a.txt", "b.tsv"], "text", ("source", "target")),
        (["data/*.tsv"], "text", ("source", "target")),
        (["dates"], "text", ("source", "target")),
        (["dates:10:3"], "text", ("source", "target")),
        (["dates"], "target,source", ("target", "source")),
        (["a.jsonl"], "en, de", ("en", "de")),
        (["hf:opus"], "translation.en,translation.de", ("translation.en", "translation.de")),
    ],
)
def test_sources_of_pairs_are_recognised(
    sources: list[str], field: str, expected: tuple[str, str] | None
) -> None:
    assert fields_of(sources, field) == expected


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("a,b,c", "--field a,b,c must be the names"),
        ("a,", "--field a, must be the names"),
        ("body", "x.tsv has pairs, but --field body names one field"),
    ],
)
def test_other_than_two_fields_are_refused(field: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        fields_of(["x.tsv"], field)


# Faults


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        (b"a\tb\nno tab\n", r"in\.tsv line 2 has no tab: .* remove it"),
        (b"\xef\xbb\xbfno tab\r\n", r"in\.tsv line 1 has no tab"),
        (b"a\tb\nc\td\te\n", r"in\.tsv line 2 has 3 columns, .*cut -f 1,2"),
        (b"a\tb\n\tb\n", r"in\.tsv line 2: the source is empty.*Remove the pair"),
        (b"a\tb\na\t \r\n", r"in\.tsv line 2: the target is empty"),
        (b"a\tb\n\t\n", r"in\.tsv line 2: the source is empty"),
        (b"a\tb\n\n\nc\td\n", r"in\.tsv line 2 is blank, and more pairs follow"),
        (b"a\tb\nc\t\xff\n", r"in\.tsv is not UTF-8: byte 0xff at position 6 "),
        (b"", r"in\.tsv is empty: there are no pairs"),
        (b"\n", r"in\.tsv is empty: there are no pairs"),
        (b"a\tb\n", r"too few pairs: of 1, 0 would be for training and 1 for validation"),
    ],
)
def test_faults_are_named_and_nothing_is_written(raw: bytes, named: str, tmp_path: Path) -> None:
    (tmp_path / "in.tsv").write_bytes(raw)
    with pytest.raises(UserError, match=named) as caught:
        prepare_pairs([str(tmp_path / "in.tsv")], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in.tsv"]


@pytest.mark.parametrize(
    ("arrange", "named"),
    [
        (lambda at: [], "no text to prepare"),
        (lambda at: [f"{at}/missing.tsv"], r"missing\.tsv"),
        (
            lambda at: [f"{at}/in.txt"],
            r"in\.txt is not a file of pairs .*\.tsv, \.jsonl, \.ndjson, \.parq",
        ),
        (lambda at: [f"{at}/empty.jsonl"], r"line 2: the target is empty"),
        (lambda at: [f"{at}/null.jsonl"], r"line 1: the source is empty"),
        (lambda at: [f"{at}/number.jsonl"], r"line 1: field target must hold text, but .* int"),
        (
            lambda at: [f"{at}/other.jsonl"],
            r"line 1 has no field source; there are: en, de\. Choose two with --field SOURCE,TARGET",
        ),
        (lambda at: ["dates:0"], "dates has from 1 to 730,485 pairs, but 0 are asked for"),
    ],
)
def test_sources_without_pairs_are_refused(
    arrange: Callable[[Path], list[str]], named: str, tmp_path: Path
) -> None:
    (tmp_path / "in.txt").write_text("a\tb\n")
    good = {"source": "a", "target": "b"}
    json_lines(tmp_path / "empty.jsonl", [good, good | {"target": ""}])
    json_lines(tmp_path / "null.jsonl", [good | {"source": None}])
    json_lines(tmp_path / "number.jsonl", [good | {"target": 3}])
    json_lines(tmp_path / "other.jsonl", [{"en": "a", "de": "b"}])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=named) as caught:
        prepare_pairs(arrange(tmp_path), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_character_that_the_tokenizer_lacks_is_named_with_line_and_side(tmp_path: Path) -> None:
    (tmp_path / "chars.json").write_text('["a", "b"]')
    source = tsv(tmp_path / "in.tsv", [("ab", "ba"), ("ab", "bé")])
    with pytest.raises(UserError, match=r"in\.tsv line 2, target: at character 1 the char .*'é'"):
        prepare_pairs([source], tmp_path / "out", tokenizer=str(tmp_path / "chars.json"))
    prepare_pairs(
        [source],
        tmp_path / "out",
        tokenizer=str(tmp_path / "chars.json"),
        target_tokenizer="char",
        val=0.5,
    )


def test_an_interrupted_preparation_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    source = tsv(tmp_path / "in.tsv")
    for name in ("encode_pieces", "_split", "write_json"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(f"jaxgpt.data.prepare_pairs.{name}", interrupted)
            prepare_pairs([source], tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["in.tsv"]


def test_each_kind_of_directory_says_what_it_is(tmp_path: Path) -> None:
    prepare_pairs([tsv(tmp_path / "in.tsv")], tmp_path / "pairs")
    prepare([str(tmp_path / "in.tsv")], tmp_path / "text")
    assert (data_kind(tmp_path / "pairs"), data_kind(tmp_path / "text")) == ("pairs", "text")
    with pytest.raises(
        UserError,
        match="pairs holds pairs of source .* for training an encoder-decoder; but a decoder is trained on text",
    ):
        tokens.open_dataset(tmp_path / "pairs")
    with pytest.raises(
        UserError, match=r"text holds text, .* a decoder; .*jaxgpt prepare FILE\.tsv"
    ):
        open_pairs(tmp_path / "text")
    with pytest.raises(UserError, match="nowhere is not a prepared directory"):
        open_pairs(tmp_path / "nowhere")
    (tmp_path / "pairs" / "data.json").write_text('{"kind": "pictures"}')
    with pytest.raises(UserError, match=r"data\.json says that the data are 'pictures'"):
        data_kind(tmp_path / "pairs")


@pytest.mark.parametrize(
    "name", ["train.bin", "val.bin", "train.offsets.bin", "val.offsets.bin", "data.json"]
)
def test_damaged_pairs_are_named(name: str, tmp_path: Path) -> None:
    prepare_pairs([tsv(tmp_path / "in.tsv")], tmp_path / "out")
    file = tmp_path / "out" / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    with pytest.raises(UserError, match=name):
        open_pairs(tmp_path / "out")
    file.unlink()
    with pytest.raises(UserError, match=name):
        open_pairs(tmp_path / "out")


def test_offsets_of_other_ids_are_refused(tmp_path: Path) -> None:
    prepare_pairs([tsv(tmp_path / "in.tsv")], tmp_path / "out")
    (tmp_path / "out" / "val.offsets.bin").replace(tmp_path / "out" / "train.offsets.bin")
    with pytest.raises(UserError, match="do not belong together: the last of 21 offsets"):
        open_pairs(tmp_path / "out", verify=False)


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
@pytest.mark.parametrize(("place", "side"), [(1, "sources"), (4, "targets"), (6, "sources")])
def test_the_ids_of_each_side_are_within_its_own_vocabulary(
    place: int, side: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "CHUNK", chunk)
    monkeypatch.setattr(jaxgpt.data.pairs, "check_manifest", lambda path: NO_FILES)
    prepare_pairs(
        [tsv(tmp_path / "in.tsv", [("ab", "vxyz"), ("a", "zv"), ("ba", "x")] * 4)],
        tmp_path / "out",
        tokenizer="char",
        target_tokenizer="char",
    )
    dataset = open_pairs(tmp_path / "out")
    assert (dataset.source_vocab_size, dataset.target_vocab_size) == (2, 6)
    ids = np.array(dataset.train.ids)
    assert ids.max() == 3
    ids[place] = {"sources": 2, "targets": 6}[side]
    tokens.write_tokens(tmp_path / "out" / "train.bin", [ids], 7)
    with pytest.raises(
        UserError, match=rf"has the id {ids[place]}, and the vocabulary of its {side}"
    ):
        open_pairs(tmp_path / "out")


def test_a_record_without_its_numbers_is_refused(tmp_path: Path) -> None:
    prepare_pairs([tsv(tmp_path / "in.tsv")], tmp_path / "out")
    file = tmp_path / "out" / "data.json"
    about = json.loads(file.read_text())
    file.write_text(json.dumps(about | {"end": "last"}))
    with pytest.raises(UserError, match=r"data\.json has no number end\."):
        open_pairs(tmp_path / "out", verify=False)


# The command, and what it shows


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    prepare_pairs([tsv(tmp_path / "in.tsv")], tmp_path / "out")
    assert "encoding" in screen.getvalue()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from jaxgpt.commands.prepare import prepare as command

    command((tsv(tmp_path / "in.tsv"),), out=tmp_path / "out", max_length=40)
    dataset = open_pairs(tmp_path / "out")
    assert isinstance(dataset.train, PairSplit)
    assert capsys.readouterr().out == (
        f"{tmp_path / 'out'}: {len(dataset.train)} pairs to train on, {len(dataset.val)} to "
        f"validate, {dataset.left_out} left out, {dataset.source_vocab_size} ids in sources, "
        f"{dataset.target_vocab_size} in targets\n"
    )
    assert 0 < dataset.left_out == 100 - len(dataset.train) - len(dataset.val)
    records = json_lines(tmp_path / "a.jsonl", [{"x": {"a": s}, "b": t} for s, t in PAIRS])
    command((records,), out=tmp_path / "records", field="x.a,b", target_tokenizer="char")
    assert decoded(open_pairs(tmp_path / "records")) == PAIRS
    for option, name in (({"max_length": 3}, "max-length"), ({"target_tokenizer": "char"}, "targ")):
        with pytest.raises(UserError, match=f"--{name}.* is for pairs"):
            command((records,), out=tmp_path / "text", field="b", **option)

"""Encoded text decodes back, whole or in parts, or the character that does not is named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.data.bpe import BpeTokenizer, train_bpe
from jaxgpt.data.tokenizer import (
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    Unencodable,
    train_char,
)
from jaxgpt.data.tokenizer_files import load
from jaxgpt.errors import UserError

TEXT = (
    "The quick brown fox jumps over the lazy dog; the dog, naïve as ever, sleeps on.\n\tWhat's 2 + 2? 日本語 😀\n"
    * 8
)
TRAINED = train_bpe(iter([TEXT]), 300)
KINDS: list[Tokenizer] = [train_char([TEXT]), ByteTokenizer(), TRAINED]


def library_bpe(alphabet: str, decoder: Any) -> Any:
    """A tokenizer of the library that knows single characters only, and drops what it does not know."""
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    made.decoder = decoder
    return made


@settings(deadline=None)
@given(st.text())
def test_decode_undoes_encode(text: str) -> None:
    for tokenizer in (train_char([text, "a"]), ByteTokenizer(), TRAINED):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert ids.dtype == np.int32
        assert not ids.size or 0 <= ids.min() <= ids.max() < tokenizer.vocab_size


@settings(deadline=None)
@given(st.text(), st.integers(0, 40))
def test_a_stream_decodes_in_any_parts(text: str, cut: int) -> None:
    for tokenizer in (train_char([text, "a"]), ByteTokenizer(), TRAINED):
        ids = tokenizer.encode(text)
        assert (
            tokenizer.decode_bytes(ids[:cut]) + tokenizer.decode_bytes(ids[cut:]) == text.encode()
        )


@pytest.mark.parametrize("tokenizer", KINDS, ids=lambda tokenizer: tokenizer.kind)
def test_a_saved_tokenizer_gives_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    for again in (load(tmp_path / "tokenizer.json"), load(tmp_path)):
        assert (again.kind, again.vocab_size, again.eot) == (
            tokenizer.kind,
            tokenizer.vocab_size,
            tokenizer.eot,
        )
        np.testing.assert_array_equal(again.encode(TEXT), tokenizer.encode(TEXT))


def test_many_texts_are_encoded_like_each_alone() -> None:
    texts = [TEXT[i : i + 37] for i in range(0, len(TEXT), 37)]
    for tokenizer in KINDS:
        for text, ids in zip(texts, tokenizer.encode_many(texts), strict=True):
            np.testing.assert_array_equal(ids, tokenizer.encode(text))


def test_characters_are_numbered_in_order() -> None:
    tokenizer = train_char(iter(["hello", " wörld"]))
    assert tokenizer.vocab_size == 9
    np.testing.assert_array_equal(tokenizer.encode(" dehlorwö"), np.arange(9))


@pytest.mark.parametrize(
    "content", [["b", "a", "\n"], {"0": "b", "1": "a", "2": "\n"}, {"2": "\n", "0": "b", "1": "a"}]
)
def test_a_tutorials_list_of_characters_is_a_tokenizer(content: Any, tmp_path: Path) -> None:
    (tmp_path / "int_to_char.json").write_text(json.dumps(content))
    np.testing.assert_array_equal(load(tmp_path / "int_to_char.json").encode("ab\nb"), [1, 0, 2, 0])


def test_a_character_outside_the_vocabulary_is_named() -> None:
    with pytest.raises(Unencodable, match=r"position 3.*'é' \(U\+00E9\)") as caught:
        train_char(["caf"]).encode_many(["fac", "café"])
    assert (caught.value.which, caught.value.position) == (1, 3)


@pytest.mark.parametrize("tokenizer", KINDS, ids=lambda tokenizer: tokenizer.kind)
def test_half_a_surrogate_pair_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"position 2.*U\+D800"):
        tokenizer.encode("e?\ud800")


def test_a_bpe_that_drops_characters_is_refused() -> None:
    tokenizer = BpeTokenizer(library_bpe("abc ", tokenizers.decoders.Fuse()))
    assert tokenizer.decode(tokenizer.encode("a cab")) == "a cab"
    with pytest.raises(UserError, match=r"position 4.*'é'"):
        tokenizer.encode("a caéa")


def test_a_bpe_that_changes_text_is_refused() -> None:
    lower = library_bpe("abc ", tokenizers.decoders.Fuse())
    lower.normalizer = tokenizers.normalizers.Lowercase()
    with pytest.raises(UserError, match=r"position 1 .*'B'"):
        BpeTokenizer(lower).encode("aBc")
    prefixed = library_bpe("abcĠ", tokenizers.decoders.ByteLevel())
    prefixed.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(UserError, match=r"position 0 .*'c'"):
        BpeTokenizer(prefixed).encode("cab")
    suffixed = library_bpe("abc!", tokenizers.decoders.Fuse())
    suffixed.normalizer = tokenizers.normalizers.Replace("c", "c!")
    with pytest.raises(UserError, match=r"position 3 .*adds"):
        BpeTokenizer(suffixed).encode("abc")


def test_special_token_text_is_ordinary_text() -> None:
    text = "one<|endoftext|>two"
    assert TRAINED.eot is not None
    assert TRAINED.eot not in TRAINED.encode(text)
    assert TRAINED.decode(TRAINED.encode(text)) == text
    assert TRAINED.decode([TRAINED.eot]) == "<|endoftext|>"


def test_padding_and_truncation_in_a_tokenizer_file_are_ignored(tmp_path: Path) -> None:
    library = tokenizers.Tokenizer.from_str(TRAINED._library.to_str())  # type: ignore[attr-defined]
    library.enable_truncation(4)
    library.enable_padding(length=64)
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    library.save(str(tmp_path / "tokenizer.json"))
    for text in (TEXT, "fox"):
        np.testing.assert_array_equal(load(tmp_path).encode(text), TRAINED.encode(text))


def test_gpt2s_vocab_and_merges_files_are_read(tmp_path: Path) -> None:
    TRAINED._library.model.save(str(tmp_path))  # type: ignore[attr-defined]
    for again in (load(tmp_path / "vocab.json"), load(tmp_path)):
        assert (again.vocab_size, again.eot) == (TRAINED.vocab_size, TRAINED.eot)
        np.testing.assert_array_equal(
            again.encode(TEXT + "<|endoftext|>"), TRAINED.encode(TEXT + "<|endoftext|>")
        )
        again.save(tmp_path / "saved")
        added = json.loads((tmp_path / "saved").read_text())["added_tokens"]
        assert [(token["content"], token["special"]) for token in added] == [
            ("<|endoftext|>", True)
        ]


@pytest.mark.parametrize("wrong", [-1, 10_000])
@pytest.mark.parametrize("tokenizer", KINDS, ids=lambda tokenizer: tokenizer.kind)
def test_ids_outside_the_vocabulary_are_named(tokenizer: Tokenizer, wrong: int) -> None:
    with pytest.raises(UserError, match=f"Id {wrong} at position 2 .*{tokenizer.vocab_size}"):
        tokenizer.decode([0, 1, wrong])


def test_a_gap_in_the_vocabulary_is_not_a_token() -> None:
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0, "c": 2}, merges=[]))
    made.decoder = tokenizers.decoders.Fuse()
    assert BpeTokenizer(made).vocab_size == 3
    with pytest.raises(UserError, match="Id 1 at position 0"):
        BpeTokenizer(made).decode([1])


def test_added_tokens_are_decoded_verbatim() -> None:
    library = tokenizers.Tokenizer.from_str(TRAINED._library.to_str())  # type: ignore[attr-defined]
    library.add_tokens(["two words Ġ"])
    tokenizer = BpeTokenizer(library)
    assert tokenizer.decode(tokenizer.encode("so: two words Ġ!")) == "so: two words Ġ!"
    assert tokenizer.vocab_size - 1 in tokenizer.encode("so: two words Ġ!")


def test_merges_are_the_same_each_time() -> None:
    assert train_bpe(iter([TEXT]), 300)._library.to_str() == TRAINED._library.to_str()  # type: ignore[attr-defined]
    assert TRAINED.vocab_size == 300
    assert len(TRAINED.encode(TEXT)) < len(TEXT.encode()) / 1.5


def test_too_few_ids_for_every_byte_are_refused() -> None:
    with pytest.raises(UserError, match="vocab_size 256 .*257"):
        train_bpe(iter([TEXT]), 256)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "Expecting value"),
        ("{", "property name"),
        ("\udcff", "utf-8"),
        ("3", "characters as"),
        ('{"a": 0, "bc": 1}', "merges.txt"),
        ('{"model": {"type": "BPE"}}', "tokenizers library"),
        ('["a", "bc"]', "Entry 1 .*'bc'"),
        ('["a", 1]', "Entry 1 .*1"),
        ('["a", "\\ud800"]', "Entry 1 "),
        ('["a", "b", "a"]', "Of 3 characters only 2"),
        ("[]", "empty"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_files_that_are_not_tokenizers_are_refused(
    content: str, named: str, tmp_path: Path
) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=named) as caught:
        load(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_librarys_message_about_a_file_is_safe_to_print(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0, "bc": 1}')
    (tmp_path / "merges.txt").write_text("\x1b[31m a\n")
    with pytest.raises(UserError, match="the tokenizers library refuses") as caught:
        load(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content", [["b", "a", "0"], {"0": "b", "1": "a", "2": "0"}, {"b": 0, "a": 1, "0": 2}], ids=str
)
def test_character_tables_from_tutorials_are_read(content: object, tmp_path: Path) -> None:
    (tmp_path / "chars.json").write_text(json.dumps(content))
    assert load(tmp_path / "chars.json").encode("ab0").tolist() == [1, 0, 2]


def llama(vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], byte_fallback=True))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Metaspace(),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
        ]
    )
    return made


@pytest.mark.parametrize(
    "vocabulary", [{"a": 0, "▁b": 1}, {"a": 0, "<0xC3>": 1, "<0xA9>": 2}], ids=str
)
def test_tokens_that_depend_on_their_neighbours_are_refused(vocabulary: dict[str, int]) -> None:
    """Decoded one by one, they would lose spaces and characters of several bytes."""
    with pytest.raises(UserError, match="use a byte-level tokenizer"):
        BpeTokenizer(llama(vocabulary)).decode([0])


def test_a_vocabulary_with_an_id_of_billions_is_refused(tmp_path: Path) -> None:
    """It would need memory for all ids below it."""
    model = {"type": "WordLevel", "vocab": {"a": 4 * 10**9}, "unk_token": "a"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    with pytest.raises(UserError, match="largest id is 4000000000, but"):
        load(tmp_path)


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no tokenizer"):
        load(tmp_path)
    with pytest.raises(UserError, match="missing.json"):
        load(tmp_path / "missing.json")


def test_the_repeated_and_the_single_character() -> None:
    assert CharTokenizer("ab").decode([1, 0, 1]) == "bab"
    assert CharTokenizer(["\0"]).decode([0, 0]) == "\0\0"

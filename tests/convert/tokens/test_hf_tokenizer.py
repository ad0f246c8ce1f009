"""A folder's tokenizer is converted too, or the reason why not is given."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from convert import to_torch
from convert.files import saving
from convert.tokens import hf_tokenizer
from jaxgpt.config import ModelConfig
from jaxgpt.data.bpe import BpeTokenizer, train_bpe
from jaxgpt.data.tokenizer import (
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    train_char,
)
from jaxgpt.data.tokenizer_files import load
from jaxgpt.errors import UserError
from tests.helpers import random_params

pytest.importorskip("torch", reason="torch is not installed")
TEXT = "It's the last of the 7 nights:\n\tno 日本語, no sleep. 😀 " * 20
BPE = train_bpe(iter([TEXT]), 300)
KINDS: list[Tokenizer] = [
    BPE,
    ByteTokenizer(),
    train_char([TEXT]),
    CharTokenizer(["b", "\n", "\0", "a", "Ġ"]),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A GPT-2 with a vocabulary of 300, and no tokenizer."""
    config = ModelConfig(300, 8, 12, 1, 2, qkv_bias=True, head_bias=False, tied=True)
    state = to_torch(random_params(config, np.dtype("float32")), config, "gpt2")
    saving.save(
        tmp_path / "hf" / "model.safetensors",
        {name: value.numpy() for name, value in state.items()},
    )
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "gpt2", "n_head": 2}')
    return tmp_path / "hf"


def as_gpt1(path: Path) -> None:
    (path / "vocab.json").write_text('{"a": 0, "b</w>": 1, "ab</w>": 2}')
    (path / "merges.txt").write_text("#version: 0.2\na b</w>\n")


@pytest.mark.parametrize(
    "tokenizer", KINDS, ids=lambda tokenizer: f"{tokenizer.kind} {tokenizer.vocab_size}"
)
def test_what_is_written_is_read_as_what_it_was(tokenizer: Tokenizer, tmp_path: Path) -> None:
    hf_tokenizer.write(tokenizer, tmp_path, 8)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        again = hf_tokenizer.read(path)
        assert type(again) is type(tokenizer)
        assert (again.vocab_size, again.eot) == (tokenizer.vocab_size, tokenizer.eot)
        text = tokenizer.decode(range(tokenizer.vocab_size)) if tokenizer.kind == "char" else TEXT
        np.testing.assert_array_equal(again.encode(text), tokenizer.encode(text))
    about = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert about["model_max_length"] == 8
    assert about.get("eos_token") == ("<|endoftext|>" if tokenizer.kind == "bpe" else None)


@pytest.mark.parametrize(
    "tokenizer", KINDS[1:], ids=lambda tokenizer: f"{tokenizer.kind} {tokenizer.vocab_size}"
)
def test_another_function_of_characters_or_bytes_stays_another(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    hf_tokenizer.write(tokenizer, tmp_path, 8)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    library.normalizer = tokenizers.normalizers.Lowercase()
    library.save(str(tmp_path / "tokenizer.json"))
    assert isinstance(hf_tokenizer.read(tmp_path), BpeTokenizer)


def test_the_folders_tokenizer_comes_along(
    folder: Path, tmp_path: Path, command: Callable[..., Any], refused: Callable[..., str]
) -> None:
    BPE._library.model.save(str(folder))  # type: ignore[attr-defined]
    outcome = command("jaxgpt-convert", "to-flax", folder, tmp_path / "two")
    assert f"Its tokenizer was stored too: vocab.json, {BPE.vocab_size} ids (bpe)." in outcome.out
    np.testing.assert_array_equal(load(tmp_path / "two").encode(TEXT), BPE.encode(TEXT))
    train_char(["ab"]).save(folder / "tokenizer.json")  # which comes first
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    outcome = command("jaxgpt-convert", "to-flax", folder, tmp_path / "one")
    assert "Its tokenizer was stored too: tokenizer.json, 2 ids (char)." in outcome.out
    assert "Not read, because it holds the same weights: pytorch_model.bin." in outcome.out
    given = tmp_path / "given.json"
    train_char(["abc"]).save(given)
    outcome = command("jaxgpt-convert", "to-flax", folder, tmp_path / "given", "--tokenizer", given)
    assert "stored too" not in outcome.out
    assert load(tmp_path / "given").vocab_size == 3
    command("jaxgpt-convert", "to-flax", folder / "model.safetensors", tmp_path / "alone")
    assert not (tmp_path / "alone" / "tokenizer.json").exists()  # it was not asked for the folder


def test_more_ids_than_the_model_has_are_refused(
    folder: Path, tmp_path: Path, command: Callable[..., Any], refused: Callable[..., str]
) -> None:
    CharTokenizer([chr(0x4E00 + i) for i in range(301)]).save(folder / "tokenizer.json")
    said = refused("jaxgpt-convert", "to-flax", folder, tmp_path / "m")
    assert f"{folder / 'tokenizer.json'} has 301 ids, but the model's vocabulary is 300" in said
    assert not (tmp_path / "m").exists()
    CharTokenizer([chr(0x4E00 + i) for i in range(290)]).save(
        folder / "tokenizer.json"
    )  # as padded models have it
    assert command("jaxgpt-convert", "to-flax", folder, tmp_path / "m").code == 0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda path: (path / "tokenizer.json").write_text('{"model": {"type": "Telepathy"}}'),
            "library refuses",
        ),
        (lambda path: (path / "tokenizer.json").write_text("{"), "is not a tokenizer file"),
        (
            lambda path: (path / "vocab.json").write_text('{"a": 0, "bc": 1}'),
            "vocab.json next to merges.txt",
        ),
        (as_gpt1, "no token for 255 of the 256 bytes"),
    ],
    ids=["unknown", "broken", "without merges", "as GPT-1's"],
)
def test_a_tokenizer_of_an_unknown_kind_stays_and_that_is_said(
    make: Callable[[Path], Any],
    says: str,
    folder: Path,
    tmp_path: Path,
    command: Callable[..., Any],
) -> None:
    """The weights are what was asked for."""
    make(folder)
    outcome = command("jaxgpt-convert", "to-flax", folder, tmp_path / "m")
    assert outcome.code == 0
    (warning,) = (line for line in outcome.err.splitlines() if str(folder) in line)
    assert warning.startswith("warning: ")
    assert says in warning
    assert "--tokenizer gives it one" in warning
    assert not (tmp_path / "m" / "tokenizer.json").exists()
    (file,) = (path for path in folder.iterdir() if path.name in ("tokenizer.json", "vocab.json"))
    with pytest.raises(UserError, match=says):
        hf_tokenizer.read(file)

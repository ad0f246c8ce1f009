"""A tokenizer in a pickle is read as plain values; any other pickle is refused, and nothing in it runs."""

import contextlib
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.data import plain_pickle
from jaxgpt.data.tokenizer_files import load
from jaxgpt.errors import UserError

CHARACTERS = ["\n", " ", "a", "é", "日", "😀"]
ITOS = dict(enumerate(CHARACTERS))
STOI = {character: index for index, character in ITOS.items()}
META = {"vocab_size": len(CHARACTERS), "itos": ITOS, "stoi": STOI}
FRAMED = pickle.dumps(META, 4)
LENGTH = (len(FRAMED) - 11).to_bytes(2, "little")  # of its frame


def written(path: Path, content: object, protocol: int | None = None) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nanogpts_meta_is_a_tokenizer(protocol: int, tmp_path: Path) -> None:
    for file in (written(tmp_path / "meta.pkl", META, protocol), tmp_path):
        tokenizer = load(file)
        assert tokenizer.decode(range(len(CHARACTERS))) == "".join(CHARACTERS)
        assert tokenizer.encode("日a").tolist() == [4, 2]


def test_large_vocabularies_and_long_texts_are_read(tmp_path: Path) -> None:
    many = [chr(0x4E00 + i) for i in range(20_000)]
    meta = {
        "itos": dict(enumerate(many)),
        "stoi": {c: i for i, c in enumerate(many)},
        "source": "x" * 70_000,
    }
    assert load(written(tmp_path / "meta.pkl", meta)).vocab_size == len(many)


@pytest.mark.parametrize(
    "meta", [{"stoi": STOI}, {"itos": ITOS}, {"itos": CHARACTERS, "stoi": STOI, "x": (1, None)}]
)
def test_one_of_the_two_tables_is_enough(meta: object, tmp_path: Path) -> None:
    assert load(written(tmp_path / "meta.pkl", meta)).vocab_size == len(CHARACTERS)


class Runs:
    """Makes a folder when it is unpickled by a reader that trusts it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def key_that_never_ends() -> bytes:
    """A dict whose key is a tuple that holds another one twice, a hundred deep: its hash visits 2**100 of them."""
    nested: tuple[Any, ...] = ()
    for _ in range(100):
        nested = (nested, nested)
    return b"\x80\x02}" + pickle.dumps(nested, 2)[2:-1] + b"K\x01s."


def text_that_never_ends() -> dict[str, Any]:
    """A value whose repr is a list of 2**100 lists."""
    nested: list[Any] = []
    for _ in range(100):
        nested = [nested, nested]
    return {"itos": {0: nested}}


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_function_that_a_pickle_names_is_never_run(protocol: int, tmp_path: Path) -> None:
    for i, content in enumerate([{**META, "stoi": Runs(tmp_path / "ran")}, Runs(tmp_path / "ran")]):
        file = written(tmp_path / f"{i}.pkl", content, protocol)
        with pytest.raises(
            UserError, match="more than plain values, opcode .*mkdir.*nothing in it is run"
        ):
            load(file)
        assert not (tmp_path / "ran").exists()
        pickle.loads(file.read_bytes())  # which a trusting reader would have run
        (tmp_path / "ran").rmdir()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"\x80\x02}r\xff\xff\xff\x7f.",
            "neither a dict stoi",
        ),  # a memo of 2**31 entries, to the reader in C
        (b"\x80\x04(" + b"}" * plain_pickle.MOST_OPCODES + b"l.", "over 2,097,152 opcodes"),
        (b"\x80\x04B\xff\xff\xff\x7fx.", "more than plain values|not a complete pickle"),
        (b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fx.", "not a complete pickle"),
        (b"\x80\x04]" * 1 + b"]" * 100_000 + b"a" * 100_000 + b".", "it holds a list, not a dict"),
        (key_that_never_ends(), "unhashable"),
        (pickle.dumps({2**64: 1}), "a number of over 64 bits"),
        (pickle.dumps({"vocab_size": 1.5}), "opcode BINFLOAT"),
        (pickle.dumps({"vocab_size": b"x"}, 4), "opcode SHORT_BINBYTES"),
        (
            b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR.",
            "opcode GLOBAL after 'os system' at byte 2",
        ),
        (b"\x80\x04\x82\x01.", "opcode EXT1"),
        (b"\x80\x02K\x01Q.", "opcode BINPERSID"),
        (text_that_never_ends(), "id 0 stands for a list"),
        (b"\x80\x04", "not a complete pickle"),
        (b"", "not a complete pickle"),
        (pickle.dumps([META]), "it holds a list, not a dict"),
        (pickle.dumps({"chars": CHARACTERS}), "neither a dict stoi nor a dict itos"),
        (pickle.dumps({**META, "itos": {1: "a"}}), "the ids of its 1 characters are not 0 to 0"),
        (
            pickle.dumps({**META, "stoi": {**STOI, "a": 0}}),
            "its stoi and the 6 characters of its itos differ",
        ),
        (pickle.dumps({**META, "vocab_size": 5}), "its vocab_size is less than its 6 characters"),
        (pickle.dumps({"itos": {0: "the"}}), "id 0 stands for 'the', which is not one character"),
        (pickle.dumps({"itos": {0: "\ud800"}}), "Entry 0 of the character list"),
        (pickle.dumps({"itos": {}}), "empty"),
        (FRAMED.replace(LENGTH, b"\x00\x10", 1), "a pickle that was cut short"),
    ],
    ids=range(24),
)
def test_files_that_are_not_tokenizers_are_refused_quickly(
    content: Any, says: str, tmp_path: Path
) -> None:
    file = written(tmp_path / "meta.pkl", content)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=says) as caught:
            load(file)
        assert tracemalloc.get_traced_memory()[1] < 400e6
    finally:
        tracemalloc.stop()
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "meta.pkl").open("wb") as file:
        file.truncate(plain_pickle.MOST_BYTES + 1)
    with pytest.raises(UserError, match="a pickle of 16,777,217 bytes, above 16,777,216"):
        load(tmp_path / "meta.pkl")


@settings(deadline=None)
@given(at=st.integers(0, 10**6), byte=st.integers(0, 255), cut=st.booleans())
def test_damage_is_refused_or_read_as_plain_values(at: int, byte: int, cut: bool) -> None:
    whole = pickle.dumps(META)
    at %= len(whole)
    damaged = whole[:at] if cut else whole[:at] + bytes([byte]) + whole[at + 1 :]
    with contextlib.suppress(UserError):
        found = plain_pickle.loads(damaged)
        assert type(found) in (dict, list, str, int, bool, type(None))


def test_the_commands_accept_it(
    tmp_path: Path, command: Callable[..., Any], refused: Callable[..., str]
) -> None:
    """Both next to the checkpoint and when it is named; a hostile one is refused."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from convert.reference import GPT

    folder = tmp_path / "out"
    folder.mkdir()
    torch.save(GPT(8, 6, 12, 1, 2).state_dict(), folder / "ckpt.pt")
    given = written(tmp_path / "given.pkl", META)
    sizes = ("--set", "num_heads=2")
    command(
        "jaxgpt-convert",
        "to-flax",
        folder / "ckpt.pt",
        tmp_path / "named",
        "--tokenizer",
        given,
        *sizes,
    )
    assert load(tmp_path / "named").encode("日").tolist() == [4]
    command("jaxgpt-convert", "to-flax", folder / "ckpt.pt", tmp_path / "without", *sizes)
    assert not (tmp_path / "without" / "tokenizer.json").exists()
    sampled = command(
        "jaxgpt",
        "sample",
        tmp_path / "without",
        "--tokenizer",
        given,
        "--prompt",
        "日a",
        "--tokens",
        3,
    )
    assert (sampled.code, sampled.out[:2]) == (0, "日a")
    written(folder / "meta.pkl", META)
    beside = command("jaxgpt-convert", "to-flax", folder / "ckpt.pt", tmp_path / "beside", *sizes)
    assert "Its tokenizer was stored too: meta.pkl, 6 ids (char)." in beside.out
    text = tmp_path / "text.txt"
    text.write_text("aé日 😀\n" * 30)
    for options in ((), ("--tokenizer", given)):
        probed = command("jaxgpt-convert", "probe", folder / "ckpt.pt", "--text", text, *options)
        assert f"ids by {given if options else folder / 'meta.pkl'}." in probed.out
    hostile = written(tmp_path / "hostile.pkl", Runs(tmp_path / "ran"))
    for words in (
        ("jaxgpt-convert", "to-flax", folder / "ckpt.pt", tmp_path / "no", *sizes),
        ("jaxgpt-convert", "probe", folder / "ckpt.pt", "--text", text),
        ("jaxgpt", "sample", tmp_path / "without", "--tokens", 3),
        ("jaxgpt", "prepare", text, "--out", tmp_path / "no"),
    ):
        assert "asks for more than plain values" in refused(*words, "--tokenizer", hostile)
    hostile.rename(folder / "meta.pkl")
    outcome = command("jaxgpt-convert", "to-flax", folder / "ckpt.pt", tmp_path / "none", *sizes)
    assert (outcome.code, "asks for more than plain values" in outcome.err) == (0, True)
    assert not (tmp_path / "none" / "tokenizer.json").exists()
    assert not (tmp_path / "ran").exists()

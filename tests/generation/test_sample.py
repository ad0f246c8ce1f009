"""The command: prompts, streams and stops, with trained and with converted models."""

import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxgpt
from jaxgpt.commands.shell import BROKEN_PIPE
from jaxgpt.data.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer
from jaxgpt.generation.sample import Clock
from jaxgpt.generation.text import TextCodec, Writer
from jaxgpt.model import GPT, params_of
from jaxgpt.storage import model_directory
from tests.generation.conftest import CONFIG, LETTERS


def test_it_writes_what_generate_yields(model: Path, command: Callable[..., Any]) -> None:
    outcome = command(
        "jaxgpt", "sample", model, "--prompt", "abc", "--tokens", "40", "--seed", "5", "--stats"
    )
    allowed = np.arange(12) < 9
    ids = np.concatenate(
        list(jaxgpt.generate(jaxgpt.load(model), [1, 2, 3], 40, 0.8, seed=5, allowed=allowed))
    )
    assert outcome.code == 0
    assert outcome.out == "abc" + "".join(LETTERS[i] for i in ids) + "\n"
    said = r"tokens: 40; compiling took [\d.]+ s; the first came after another [\d.]+ s, then [\d,]+ tokens/s\n"
    assert re.fullmatch(said, outcome.err)


def test_it_generates_with_kernels_in_int8(
    model: Path, pair: Path, command: Callable[..., Any]
) -> None:
    outcome = command(
        "jaxgpt", "sample", model, "--prompt", "abc", "--tokens", "20", "--weights", "int8"
    )
    assert outcome.code == 0
    in_int8 = jaxgpt.to_int8(jaxgpt.load(model, jaxgpt.GPT))
    allowed = np.arange(12) < 9
    ids = np.concatenate(list(jaxgpt.generate(in_int8, [1, 2, 3], 20, 0.8, allowed=allowed)))
    assert outcome.out == "abc" + "".join(LETTERS[i] for i in ids) + "\n"
    sources = ("jaxgpt", "sample", pair, "--source", "abc")
    assert command(*sources, "--weights", "int8").code == 0
    assert "invalid choice" in command(*sources, "--weights", "int4").err


def test_the_context_can_be_changed(
    model: Path, tmp_path: Path, command: Callable[..., Any], refused: Callable[..., str]
) -> None:
    long = ["--prompt", "abcdefgh" * 3, "--tokens", "9", "--context"]
    said = refused("jaxgpt", "sample", model, *long, "20")
    assert "context is 20, but the model's learned positions are a table of 16: ask for" in said
    config = dataclasses.replace(CONFIG, positions="rotary", num_kv_heads=1)
    params = params_of(GPT(config, seed=3))
    model_directory.save(tmp_path / "rotary", config, params, tokenizer=CharTokenizer(LETTERS))
    outcome = command("jaxgpt", "sample", tmp_path / "rotary", *long, "20", "--on-full", "stop")
    assert outcome.code == 0
    assert "The prompt has 24 tokens; the model sees the last 20 of them." in outcome.err
    assert "The model sees 20 tokens, and --on-full stop ended the text there." in outcome.err


def test_an_empty_prompt_starts_from_id_0(model: Path, command: Callable[..., Any]) -> None:
    empty, newline = (
        command("jaxgpt", "sample", model, "--tokens", "9", *words).out
        for words in ([], ["--prompt", "\n"])
    )
    assert "\n" + empty == newline


def test_a_prompt_comes_from_a_file_or_from_standard_input(
    model: Path,
    tmp_path: Path,
    command: Callable[..., Any],
    refused: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "prompt.txt").write_text("abc")
    expected = command("jaxgpt", "sample", model, "--prompt", "abc", "--tokens", "5").out
    assert (
        command(
            "jaxgpt", "sample", model, "--prompt-file", tmp_path / "prompt.txt", "--tokens", "5"
        ).out
        == expected
    )
    (tmp_path / "prompt.txt").write_text("abc", encoding="utf-8-sig")  # as Windows writes it
    assert (
        command(
            "jaxgpt", "sample", model, "--prompt-file", tmp_path / "prompt.txt", "--tokens", "5"
        ).out
        == expected
    )
    for words in (["--prompt", "-"], ["--prompt-file", "-"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc")))
        assert command("jaxgpt", "sample", model, *words, "--tokens", "5").out == expected
    assert "not from both" in refused(
        "jaxgpt", "sample", model, "--prompt", "a", "--prompt-file", "b"
    )
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xff")))
    assert "Standard input is not UTF-8 text" in refused("jaxgpt", "sample", model, "--prompt", "-")
    monkeypatch.setattr(sys, "stdin", None)
    assert "Standard input is closed" in refused("jaxgpt", "sample", model, "--prompt", "-")


def test_several_samples_are_each_a_whole_text(model: Path, command: Callable[..., Any]) -> None:
    outcome = command(
        "jaxgpt", "sample", model, "--prompt", "abc", "--tokens", "20", "--samples", "3"
    )
    texts = outcome.out.removesuffix("\n").split("\n---------------\n")
    assert [len(text) for text in texts] == [23, 23, 23]
    assert all(text.startswith("abc") for text in texts)
    assert len(set(texts)) == 3


def test_without_a_tokenizer_ids_go_in_and_out(
    model: Path, tmp_path: Path, command: Callable[..., Any], refused: Any
) -> None:
    bare = model.with_name("bare")
    outcome = command(
        "jaxgpt", "sample", bare, "--prompt", "1 2, 3", "--tokens", "6", "--temperature", "0"
    )
    assert (
        "has no tokenizer: prompt and output are ids. For text, name its tokenizer with --tokenizer"
        in outcome.err
    )
    ids = outcome.out
    assert ids.split()[:3] == ["1", "2", "3"]
    assert len(ids.split()) == 9
    message = refused("jaxgpt", "sample", bare, "--prompt", "hello")
    assert "has no tokenizer" in message
    assert "--tokenizer" in message
    (tmp_path / "chars.json").write_text(
        json.dumps({str(i): letter for i, letter in enumerate(LETTERS)})
    )
    words = ["--prompt", "abc", "--tokens", "6"]
    named = command("jaxgpt", "sample", bare, *words, "--tokenizer", tmp_path / "chars.json").out
    assert named == command("jaxgpt", "sample", model, *words).out
    fewer = command("jaxgpt", "sample", bare, *words, "--tokenizer", tmp_path / "chars.json").err
    assert (
        f"3 of the model's 12 ids are unknown to {tmp_path / 'chars.json'}: they are never chosen."
        in fewer
    )
    assert command("jaxgpt", "sample", bare, *words, "--tokenizer", model).out == named
    assert "nix.json does not exist" in refused(
        "jaxgpt", "sample", bare, "--tokenizer", tmp_path / "nix.json"
    )
    (tmp_path / "chars.json").write_text(json.dumps([chr(97 + i) for i in range(20)]))
    assert "belongs to another model" in refused(
        "jaxgpt", "sample", bare, "--tokenizer", tmp_path / "chars.json"
    )


def test_a_prompt_longer_than_the_context_is_cropped_with_one_notice(
    model: Path, command: Callable[..., Any]
) -> None:
    long = "abcdefgh" * 4
    outcome = command("jaxgpt", "sample", model, "--prompt", long, "--tokens", "5")
    assert outcome.err == "The prompt has 32 tokens; the model sees the last 16 of them.\n"
    short = command("jaxgpt", "sample", model, "--prompt", long[-16:], "--tokens", "5")
    assert outcome.out == long[:16] + short.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--prompt", "abzé"],
            "characters that the char tokenizer does not know: 'z' (U+007A), 'é' (U+00E9). Remove them",
        ),
        (["--temperature", "-1"], "temperature must be 0 (the most likely token) or lie in"),
        (["--top-k", "13"], "top_k must lie between 1 and the 12 ids there are, but is 13"),
        (["--tokens", "0"], "number of new tokens must be positive"),
    ],
)
def test_wrong_input_is_refused(
    words: list[str], message: str, model: Path, refused: Callable[..., str]
) -> None:
    assert message in refused("jaxgpt", "sample", model, *words)


def test_nothing_is_printed_when_options_are_refused(
    model: Path, command: Callable[..., Any]
) -> None:
    assert command("jaxgpt", "sample", model, "--prompt", "abc", "--seed", "-1").out == ""


def test_a_character_that_the_terminal_lacks_is_replaced(tmp_path: Path) -> None:
    model_directory.save(
        tmp_path / "model", CONFIG, params_of(GPT(CONFIG)), tokenizer=CharTokenizer("aé")
    )
    words = [
        sys.executable,
        "-m",
        "jaxgpt",
        "sample",
        str(tmp_path / "model"),
        "--prompt",
        "aé",
        "--tokens",
        "1",
    ]
    done = subprocess.run(
        words, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout[:2], done.stderr) == (0, b"a?", b"")


def test_a_full_context_is_reported(model: Path, command: Callable[..., Any]) -> None:
    words = ["--prompt", "abc", "--tokens", "40", "--on-full", "stop"]
    outcome = command("jaxgpt", "sample", model, *words)
    assert (
        len(outcome.out) == 3 + 16 + 1 - 3 + 1
    )  # prompt, all that the model sees and one more, end of line
    assert outcome.err == "The model sees 16 tokens, and --on-full stop ended the text there.\n"


def test_unknown_characters_can_be_skipped(model: Path, command: Callable[..., Any]) -> None:
    words = ["--tokens", "5", "--errors", "skip"]
    texts = "aZb", "a\udcffb", "ab"  # the second is what a shell makes of bytes that are not UTF-8
    skipped, halved, clean = (
        command("jaxgpt", "sample", model, "--prompt", text, *words).out for text in texts
    )
    assert skipped == halved == clean


def test_a_reader_may_close_the_pipe_early(model: Path) -> None:
    words = [sys.executable, "-m", "jaxgpt", "sample", str(model), "--tokens", "5000"]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}  # as most people have it
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered
    ) as writing:
        assert writing.stdout
        assert writing.stderr
        writing.stdout.read(5)
        writing.stdout.close()
        assert writing.stderr.read() == b""
    assert writing.returncode == BROKEN_PIPE


def test_the_reported_speed_excludes_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 14.0, 20.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))

    def compiled(start: float, end: float) -> None:
        jax.monitoring.record_event_time_span("/jax/core/compile/any", start, end)

    with Clock() as clock:
        compiled(1.0, 1.5)
        compiled(0.5, 3.5)  # the one before was a part of it
        clock.tick(1)
        compiled(5.0, 7.0)
        clock.tick(9)
    compiled(8.0, 9.0)
    assert (
        clock.summary()
        == "tokens: 9; compiling took 5.00 s; the first came after another 1.000 s, then 2 tokens/s"
    )


def written(
    tokenizer: Tokenizer, ids: list[int], stops: list[str], size: int
) -> tuple[list[str], bool]:
    writer = Writer(TextCodec(tokenizer, Path()), stops)
    pieces = [writer.add(np.array(ids[at : at + size])) for at in range(0, len(ids), size)]
    return [*pieces, writer.end()], writer.ended


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_characters_are_printed_whole_however_tokens_split_them(size: int) -> None:
    text = "naïve, 日本語 🙂"
    pieces, _ = written(ByteTokenizer(), [*text.encode()], [], size)
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)
    broken, _ = written(ByteTokenizer(), [*"🙂".encode()[:2]], [], size)
    assert "".join(broken) == "\ufffd"


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("stops", "text"),
    [
        (["END"], "an E, an EN, then "),
        (["nothing like it"], "an E, an EN, then END and more"),
        (["x", "EN"], "an E, an "),
        (["EN, then", "N,"], "an E, an E"),
    ],
)
def test_a_stop_is_found_across_pieces_and_not_shown(
    stops: list[str], text: str, size: int
) -> None:
    pieces, ended = written(ByteTokenizer(), [*b"an E, an EN, then END and more"], stops, size)
    assert "".join(pieces) == text
    assert ended == (stops[0] != "nothing like it")


def test_an_encoder_decoder_writes_a_line_for_each_source(
    pair: Path, tmp_path: Path, command: Callable[..., Any], refused: Callable[..., str]
) -> None:
    (tmp_path / "sources.txt").write_text("abc\r\nhgf\na\n")
    sample = ("jaxgpt", "sample", pair)
    lines = command(*sample, "--source-file", tmp_path / "sources.txt").out.splitlines()
    assert len(lines) == 3
    assert lines[0] == command(*sample, "--source", "abc").out.rstrip("\n")
    assert lines[2] == command(*sample, "--source", "a", "--end", "10").out.rstrip("\n")
    stats = command(*sample, "--source", "abc", "--beams", "3", "--stats").err
    assert re.match(r"texts: 1, tokens: \d+; compiling took", stats)
    two = command(*sample, "--source", "abc", "--samples", "2", "--temperature", "2").out
    assert len(two.splitlines()) == 2
    ids = command(
        "jaxgpt",
        "sample",
        pair.with_name("bare"),
        "--source",
        "1 2 3",
        "--start",
        "9",
        "--end",
        "10",
    )
    assert ids.out.split() == [str(LETTERS.replace("\n", " ").index(letter)) for letter in lines[0]]
    bare = model_directory.ModelDirectory(pair.with_name("bare"))
    marks = {"start": 9, "end": 10}
    model_directory.save(tmp_path / "marked", bare.config, bare.params(), marks)
    assert command("jaxgpt", "sample", tmp_path / "marked", "--source", "1 2 3").out == ids.out


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("model", ["--source", "abc"], "is a decoder, and reads no source"),
        ("pair", ["--prompt", "abc"], "is an encoder-decoder, and needs a source to read: --source"),
        ("pair", [], "needs a source to read"),
        ("alone", ["--prompt", "1"], "is a decoder that attends to a memory from outside"),
        ("pair", ["--source-file", "FILE"], "Line 2 of the sources is empty"),
        ("pair", ["--source", "Z", "--errors", "skip"], "The source is empty"),
        ("pair", ["--source", "a" * 15], "Source 1 has 15 tokens, but the encoder reads at most 14"),
        ("pair", ["--source", "a", "--prompt", "b"], "--prompt is for decoders"),
        ("pair", ["--source", "a", "--stop", "b"], "--stop is for decoders"),
        ("pair", ["--source", "a", "--source-file", "FILE"], "from --source or from --source-file"),
        ("pair", ["--source", "a", "--start", "11"], "has ids 0 to 10: give the right one with --start"),
        ("pair", ["--source", "a", "--beams", "2", "--samples", "2"], "samples must be 1 with beams"),
        ("bare", ["--source", "1"], "does not say with which id a text of its decoder starts"),
        ("model", ["--prompt", "a", "--beams", "2", "--top-k", "2"], "top_k must be 0 with beams"),
        ("model", ["--prompt", "a", "--beams", "0"], "beams must be positive"),
    ],
)  # fmt: skip
def test_invalid_sources_and_beams_are_refused(
    model: Path, pair: Path, tmp_path: Path, refused: Callable[..., str], name: str, options: list[str], message: str
) -> None:  # fmt: skip
    (tmp_path / "sources.txt").write_text("abc\n\na\n")
    words = [str(tmp_path / "sources.txt") if word == "FILE" else word for word in options]
    directory = model if name == "model" else pair.with_name(name)
    assert message in refused("jaxgpt", "sample", directory, *words)


def test_beams_continue_a_prompt(model: Path, command: Callable[..., Any]) -> None:
    greedy = command(
        "jaxgpt", "sample", model, "--prompt", "ab", "--tokens", "5", "--temperature", "0"
    )
    beams = command("jaxgpt", "sample", model, "--prompt", "ab", "--tokens", "50", "--beams", "3")
    assert greedy.out.startswith("ab")
    assert beams.out.startswith("ab")
    assert len(beams.out) == 2 + 15 + 1
    assert beams.err == "The model sees 16 tokens, and beams end the text there.\n"

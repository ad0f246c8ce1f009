"""Prompts and answers: which parts are learned, and which lines are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxgpt.data import tokens
from jaxgpt.data.answers import recognise
from jaxgpt.data.prepare_answers import prepare_answers
from jaxgpt.data.tokenizer_files import load
from jaxgpt.data.tokens import Dataset, open_dataset
from jaxgpt.data.windows import Windows, split_of
from jaxgpt.errors import UserError

LINES: list[dict[str, Any]] = [
    {"prompt": f"reverse: {'ab' * i}=", "answer": "ba" * i} for i in range(1, 21)
]
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi!"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye!"},
        {"role": "assistant", "content": "See you."},
    ]
}


def written(path: Path, *lines: dict[str, Any] | str) -> str:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(text + "\n" for text in texts))
    return str(path)


def learnt(dataset: Dataset) -> list[tuple[str, str]]:
    """The text of each example for training, and of the part that counts."""
    assert dataset.examples
    examples, tokenizer = dataset.examples["train"], load(dataset.path)
    shown = []
    for a, b in zip(examples.offsets[:-1].tolist(), examples.offsets[1:].tolist(), strict=True):
        ids, counts = dataset.train[a:b], examples.answers[a:b] == 1
        shown.append((tokenizer.decode(ids), tokenizer.decode(ids[counts])))
    return shown


def test_the_answer_and_its_end_count_in_the_loss(tmp_path: Path) -> None:
    data = prepare_answers([written(tmp_path / "in.jsonl", *LINES)], tmp_path / "out")
    assert learnt(data) == [
        (f"{line['prompt']}{line['answer']}\n", f"{line['answer']}\n") for line in LINES[:18]
    ]
    assert data.examples
    assert len(data.examples["val"]) == 2


@pytest.mark.parametrize(("tokenizer", "end"), [("byte", "\n"), ("bpe", "<|endoftext|>")])
def test_in_a_conversation_the_assistants_messages_count(
    tokenizer: str, end: str, tmp_path: Path
) -> None:
    source = written(tmp_path / "in.jsonl", *[CHAT] * 4)
    data = prepare_answers([source], tmp_path / "out", tokenizer=tokenizer, vocab_size=260)
    whole = (
        f"system:\nBe brief.\nuser:\nHi!\nassistant:\nHello.{end}"
        f"user:\nBye!\nassistant:\nSee you.{end}"
    )
    assert learnt(data) == [(whole, f"Hello.{end}See you.{end}")] * 3


def test_json_lines_with_text_stay_text(tmp_path: Path) -> None:
    assert recognise([written(tmp_path / "a.jsonl", LINES[0])])
    assert recognise([written(tmp_path / "b.jsonl", CHAT)])
    assert not recognise([written(tmp_path / "c.jsonl", {"text": "x", **LINES[0]})])
    assert not recognise([str(tmp_path / "a.jsonl")], "prompt")
    assert not recognise([written(tmp_path / "d.jsonl", {"prompt": "x"})])
    assert not recognise([written(tmp_path / "e.txt", LINES[0])])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is not JSON"),
        ("[]", "line 2: a record must be an object, but is a list"),
        ({"prompt": "x"}, "line 2 must have the fields prompt and answer, .* are: prompt. Correct"),
        ({"prompt": "x", "answer": " "}, "line 2, answer: the text is empty"),
        ({"prompt": "", "answer": "x"}, "line 2, prompt: the text is empty"),
        ({"prompt": 3, "answer": "x"}, "line 2: field prompt must hold text, but holds a int"),
        ({"prompt": "x", "answer": None}, "line 2: field answer must hold text, but .* NoneType"),
        ({"messages": []}, "line 2: messages must be a list of messages, .* an empty list"),
        ({"messages": "x"}, "line 2: messages must be a list of messages, .* but is a str"),
        ({"messages": ["x"]}, "line 2, message 1 must be an object with role and content"),
        ({"messages": [{"role": "user"}]}, "message 1 must be an object .* one with .'role'."),
        (
            {"messages": [{"role": "bot", "content": "x"}]},
            "line 2, message 1: the role is 'bot'; there are: system, user, assistant",
        ),
        (
            {"messages": CHAT["messages"][:4]},
            "line 2: the last message must be from the assistant, .* but is from the user",
        ),
        (
            {"messages": [*CHAT["messages"][:2], {"role": "assistant", "content": ""}]},
            "line 2, message 3: the text is empty",
        ),
    ],
)
def test_a_wrong_line_is_named(
    line: Any, said: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    source = written(tmp_path / "in.jsonl", LINES[0], line, *LINES)
    message = refused("jaxgpt", "prepare", source, "--out", str(tmp_path / "out"))
    assert str(tmp_path / "in.jsonl") in message.replace("\n", " ")
    with pytest.raises(UserError, match=said):
        prepare_answers([source], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_long_examples_are_left_out_or_counted(tmp_path: Path, command: Callable[..., Any]) -> None:
    source = written(tmp_path / "in.jsonl", *LINES)
    whole = prepare_answers([source], tmp_path / "whole")
    lengths = [len(line["prompt"]) + len(line["answer"]) + 1 for line in LINES]
    assert lengths[:2] == [15, 19]
    with pytest.raises(UserError) as refusal:
        split_of(whole, "train", 17, "restart")
    for part in ("17 of 18 examples", "example 2 of its split: its 19 tokens", "--max-length 18."):
        assert part in str(refusal.value)
    said = command(
        "jaxgpt", "prepare", source, "--out", str(tmp_path / "short"), "--max-length", "31"
    )
    assert "4 examples to train on, 1 to validate, 15 left out" in said.out
    assert isinstance(split_of(open_dataset(tmp_path / "short"), "train", 30, "off"), Windows)


def test_an_answer_counts_where_it_is_the_target(tmp_path: Path) -> None:
    data = prepare_answers([written(tmp_path / "in.jsonl", *LINES)], tmp_path / "out")
    tokenizer = load(data.path)
    for pack in ("off", "restart"):
        split = split_of(data, "train", 128, pack)
        assert isinstance(split, Windows)
        batch = split.rows(np.arange(len(split)))
        assert len(split) == (18 if pack == "off" else 7)
        assert (batch.segments_bt is None) == (pack == "off")
        answers = tokenizer.decode(batch.targets_bt[batch.target_mask_bt])
        assert sorted(answers.split()) == sorted(line["answer"] for line in LINES[:18])


def test_the_mask_of_answers_is_checksummed_like_the_ids(tmp_path: Path) -> None:
    data = prepare_answers([written(tmp_path / "in.jsonl", *LINES)], tmp_path / "out")
    other = [
        {**line, "prompt": line["prompt"] + line["answer"][:1], "answer": line["answer"][1:]}
        for line in LINES
    ]
    moved = prepare_answers([written(tmp_path / "other.jsonl", *other)], tmp_path / "moved")
    np.testing.assert_array_equal(moved.train, data.train)
    assert moved.train_sha256 != data.train_sha256
    file = tmp_path / "out" / "train.answers.bin"
    file.write_bytes((tmp_path / "moved" / "train.answers.bin").read_bytes())
    with pytest.raises(UserError, match="train.answers.bin has sha256"):
        open_dataset(tmp_path / "out")
    file.write_bytes((tmp_path / "out" / "val.answers.bin").read_bytes())
    with pytest.raises(UserError, match="do not belong together: they are for"):
        tokens.open_dataset(tmp_path / "out", verify=False)

"""Prompts and their answers, and conversations, from JSON lines.

An example is a text, some parts of which, the answers, are to be learnt. Each record is one:

    {"prompt": "...", "answer": "..."}    the prompt as it is, the answer as it is, END
    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
                                          each message as "ROLE:", a newline, and its content; after
                                          that END where the role is assistant, else a newline

END is the end-of-text id, or a newline where the tokenizer has none. The loss counts what the
assistant says and the END after it.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from jaxgpt.data.corpus_formats import JSON_LINES, TEXT_FORMATS, Reading, Records, texts
from jaxgpt.data.pieces import Piece, open_file
from jaxgpt.data.sources import files_of
from jaxgpt.errors import UserError, require

FIELDS = ("prompt", "answer")
MESSAGES = "messages"
ROLES = ("system", "user", "assistant")
END = "\n"  # ends an answer, for tokenizers without an end-of-text id


class Turn(NamedTuple):
    """A prompt, which is only read, and the answer to it, which is learnt."""

    prompt: Piece
    answer: Piece


Example = list[Turn]


def recognise(sources: Sequence[str], field: str = "text") -> bool:
    """Whether `sources` are examples: JSON lines with their fields, not text, in the first record.

    Sources for which a `field` is named are text, or pairs.
    """
    if field != "text" or not sources or not sources[0].endswith(JSON_LINES):
        return False
    records = chain.from_iterable(map(_records, files_of(sources[0])))
    _, first = next(records, ("", None))
    return isinstance(first, dict) and field not in first and _is_example(first)


def examples(sources: Sequence[str], errors: str = "strict") -> Iterator[Example]:
    """All examples of `sources`, in their order."""
    for source in sources:
        empty = True
        for path in files_of(source):
            for where, record in _records(path, errors):
                empty = False
                yield _example(where, record, Reading(FIELDS, errors))
        require(not empty, f"{source} is empty: there are no prompts and answers in it.")


def pieces(example: Example) -> Iterator[Piece]:
    """All text of an example, with an END, in reading order."""
    for turn in example:
        yield from turn
    yield Piece(END, example[-1].answer.where, 0, None)


def _records(path: Path, errors: str = "strict") -> Records:
    require(
        path.suffix in JSON_LINES,
        f"{path} is not a file of prompts and answers: the names of these end in "
        f"{' or '.join(JSON_LINES)}, and each line is an object. Prepare other text separately.",
    )
    with open_file(path) as stream:
        yield from TEXT_FORMATS[path.suffix](stream, path, Reading(FIELDS, errors))


def _is_example(record: dict[str, Any]) -> bool:
    return MESSAGES in record or all(field in record for field in FIELDS)


def _example(where: str, record: Any, reading: Reading) -> Example:
    require(
        isinstance(record, dict),
        f"{where}: a record must be an object, but is a {type(record).__name__}.",
    )
    require(
        _is_example(record),
        f"{where} must have the fields {' and '.join(FIELDS)}, or {MESSAGES}, as the first record "
        f"has; there are: {', '.join(record) or 'none'}. Correct the line or remove it.",
    )
    if MESSAGES in record:
        return _conversation(where, record[MESSAGES], reading)
    prompt, answer = (
        _piece(f"{where}, {field}", text)
        for field, text in zip(FIELDS, _texts(where, record, reading), strict=True)
    )
    return [Turn(prompt, answer)]


def _conversation(where: str, messages: Any, reading: Reading) -> Example:
    require(
        isinstance(messages, list) and bool(messages),
        f"{where}: {MESSAGES} must be a list of messages, each an object with role and content, "
        f"but is {'an empty list' if messages == [] else f'a {type(messages).__name__}'}.",
    )
    turns, prompt = [], ""
    by_message = Reading(("role", "content"), reading.errors)
    for number, message in enumerate(messages, 1):
        place = f"{where}, message {number}"
        require(
            isinstance(message, dict) and {"role", "content"} <= message.keys(),
            f"{place} must be an object with role and content, but is "
            f"{f'one with {sorted(message)}' if isinstance(message, dict) else repr(message)}.",
        )
        role, content = _texts(place, message, by_message)
        require(role in ROLES, f"{place}: the role is {role!r}; there are: {', '.join(ROLES)}.")
        prompt += f"{role}:\n"
        if role == ROLES[-1]:
            turns.append(Turn(_piece(place, prompt), _piece(place, content)))
            prompt = ""
        else:
            prompt += f"{content}\n"
    require(
        bool(turns) and not prompt,
        f"{where}: the last message must be from the {ROLES[-1]}, whose messages are learnt, but "
        f"is from the {messages[-1]['role']}. Remove it.",
    )
    return turns


def _texts(where: str, record: dict[str, Any], reading: Reading) -> list[str]:
    for field in reading.fields:
        if not isinstance(record[field], str):
            kind = type(record[field]).__name__
            raise UserError(f"{where}: field {field} must hold text, but holds a {kind}.")
    ((_, values),) = texts(iter([(where, record)]), reading)
    return values


def _piece(where: str, text: str) -> Piece:
    require(
        bool(text.strip()),
        f"{where}: the text is empty, but there is nothing to learn without a prompt and an "
        "answer. Correct the line or remove it.",
    )
    return Piece(text, where, 0, None)

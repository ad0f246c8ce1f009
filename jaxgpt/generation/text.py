"""Text from a model directory, as it is written, and how fast. Knows not how a token is chosen."""

import codecs
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import jax.monitoring
import numpy as np

from jaxgpt.config import UserError, require
from jaxgpt.data.tokenizer import Tokenizer, Unencodable
from jaxgpt.devices.cpu import make_devices
from jaxgpt.generation.stream import NOTHING, stream
from jaxgpt.storage import model_directory

BETWEEN = "\n---------------\n"  # two samples


def sample(
    directory: Path,
    prompt: str,
    *,
    tokens: int,
    samples: int,
    tokenizer: Path | None,
    stop: Sequence[str],
    errors: Literal["strict", "skip"],
    stats: bool,
    show: Callable[[str], None],
    note: Callable[[str], None],
    **options: Any,
) -> None:
    """`show` gets text in pieces, `note` what is said about it."""
    make_devices()
    opened = model_directory.ModelDirectory(directory)
    text = Text(find_tokenizer(opened, tokenizer), directory)
    require(
        text.tokenizer is not None or not stop,
        f"--stop takes text, and {directory} has no tokenizer.",
    )
    ids = text.encode(prompt, errors)
    if text.tokenizer is None:
        note(
            f"{directory} has no tokenizer: ids go in and out. To have text, name its tokenizer by --tokenizer."
        )
    model, context = opened.model(), opened.config.context_length
    if len(ids) > context:
        note(f"The prompt has {len(ids)} tokens; the model sees the last {context} of them.")
    limits = text.limits(opened.config.vocab_size)
    if tokenizer and (lost := int((~limits["allowed"]).sum())):
        note(
            f"Of the model's {opened.config.vocab_size} ids {lost} mean nothing to {tokenizer}: they are left out."
        )
    prompt = text.tokenizer.decode(ids) if text.tokenizer else " ".join(map(str, ids))
    pieces = stream(
        model, ids if len(ids) else [text.start], tokens, samples=samples, **limits, **options
    )
    show(prompt)
    writers = [Writer(text, stop) for _ in range(samples)]
    later, written, room = (
        [""] * samples,
        np.zeros(samples, int),
        context + 1 - min(len(ids) or 1, context),
    )
    with Clock() as clock:
        for piece in pieces:
            written += (piece.ids != NOTHING).sum(axis=1)
            clock.tick(int(written.sum()))
            for i, (writer, row) in enumerate(zip(writers, piece.ids, strict=True)):
                later[i] += writer.add(row[row != NOTHING])
            show(later[0])
            later[0] = ""
            if all(writer.ended for writer in writers):
                break
    for i, writer in enumerate(writers):
        show((BETWEEN + prompt if i else "") + later[i] + writer.end())
    show("\n")
    if options["on_full"] == "stop" and room < tokens and (written == room).any():
        note(f"The model sees {context} tokens, and --on-full stop ended the text there.")
    if stats:
        note(clock.told())


class Clock:
    """How fast tokens come, apart from the time that programs take to be compiled."""

    def __enter__(self) -> Self:
        self.spans: list[tuple[float, float]] = []
        self.ticks: list[tuple[int, float]] = []
        jax.monitoring.register_event_time_span_listener(self._compiled)
        self.started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_time_span_listener(self._compiled)

    def _compiled(self, event: str, start_time: float, end_time: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            before = [
                span for span in self.spans if span[0] < start_time
            ]  # the others were a part of it
            self.spans = [*before, (start_time, end_time)]

    @property
    def compiling(self) -> float:
        return sum(end - start for start, end in self.spans)

    def tick(self, tokens: int) -> None:
        """So many there are by now."""
        self.ticks.append((tokens, time.perf_counter() - self.started - self.compiling))

    def told(self) -> str:
        (at_once, first), (count, last) = self.ticks[0], self.ticks[-1]
        speed = (
            f", then {(count - at_once) / max(last - first, 1e-9):,.0f} tokens/s"
            if count > at_once
            else ""
        )
        compiling = f"compiling took {self.compiling:.2f} s"
        return f"tokens: {count}; {compiling}; the first came after another {first:.3f} s{speed}"


def find_tokenizer(opened: model_directory.ModelDirectory, given: Path | None) -> Tokenizer | None:
    own = opened.path / "tokenizer.json"
    found = model_directory.load_tokenizer(given or own) if given or own.exists() else None
    if found and found.vocab_size > opened.config.vocab_size:
        raise UserError(
            f"The tokenizer {given or own} has {found.vocab_size} ids, but the model in {opened.path} has "
            f"{opened.config.vocab_size}: it belongs to another model."
        )
    return found


class Text:
    """What ids stand for; without a tokenizer, for themselves."""

    def __init__(self, tokenizer: Tokenizer | None, directory: Path):
        self.tokenizer, self.directory = tokenizer, directory
        self.start = tokenizer.start if tokenizer else 0

    def limits(self, vocab_size: int) -> dict[str, Any]:
        """What may be chosen, and what ends a text: for `stream`."""
        if self.tokenizer is None:
            return {}
        stop_ids = [] if self.tokenizer.eot is None else [self.tokenizer.eot]
        return {"allowed": self.tokenizer.means_something(vocab_size), "stop_ids": stop_ids}

    def encode(self, prompt: str, errors: Literal["strict", "skip"]) -> list[int]:
        if self.tokenizer:
            try:
                return self.tokenizer.encode(prompt, errors).tolist()
            except Unencodable as error:
                unknown = [f"{c!r} (U+{ord(c):04X})" for c in self.tokenizer.unknown(prompt)] or [
                    str(error)
                ]
                more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
                raise UserError(
                    f"The text has what the {self.tokenizer.kind} tokenizer does not know: "
                    f"{', '.join(unknown[:10])}{more}. "
                    "Leave it out, or let --errors skip do so."
                ) from None
        try:
            return [int(word) for word in prompt.replace(",", " ").split()]
        except ValueError:
            raise UserError(
                f"{self.directory} has no tokenizer, so a prompt is ids, like 0 29 59, but is {prompt[:40]!r}. To "
                "give it text, name its tokenizer by --tokenizer: a tokenizer.json, a list of "
                "characters as JSON, or nanoGPT's meta.pkl."
            ) from None


class Writer:
    """Turns ids into text as they come: half a character waits for its other half, and the beginning of a stop for the
    rest of it."""

    def __init__(self, text: Text, stops: Sequence[str]):
        self.tokenizer, self.stops = text.tokenizer, [stop for stop in stops if stop]
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.held, self.ended = "", False

    def add(self, ids: np.ndarray) -> str:
        if self.ended:
            return ""
        if self.tokenizer is None:
            return "".join(f" {i}" for i in ids)
        eot = self.tokenizer.eot
        self.held += self.decoder.decode(
            self.tokenizer.decode_bytes(ids[ids != eot] if eot is not None else ids)
        )
        found = [
            (self.held.find(stop) + len(stop), self.held.find(stop))
            for stop in self.stops
            if stop in self.held
        ]
        if found:
            self.ended = True
            return self._release(
                min(found)[1]
            )  # of the one that was whole first, however the text was cut
        return self._release(len(self.held) - max(map(self._begun, self.stops), default=0))

    def _begun(self, stop: str) -> int:
        """Characters at the end of what is held that `stop` may begin with."""
        return next(
            n for n in range(min(len(stop), len(self.held)), -1, -1) if self.held.endswith(stop[:n])
        )

    def _release(self, n: int) -> str:
        out, self.held = self.held[:n], "" if self.ended else self.held[n:]
        return out

    def end(self) -> str:
        return "" if self.ended else self.held + self.decoder.decode(b"", final=True)


def read_prompt(prompt: str, file: Path | None) -> str:
    """- is standard input."""
    require(
        not prompt or file is None,
        "A prompt comes from --prompt or from --prompt-file, not from both.",
    )
    if file is None and prompt != "-":
        return prompt
    standard = prompt == "-" or str(file) == "-"
    require(
        not standard or sys.stdin is not None,
        "Standard input is closed, and the prompt should come from there.",
    )
    content = sys.stdin.buffer.read() if standard or file is None else file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        name = "Standard input" if standard else file
        raise UserError(f"{name} is not UTF-8 text: {error}. iconv makes it so.") from None

"""The work of `jaxgpt sample`: prints texts as they are generated, and measures the speed."""

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import jax.monitoring
import numpy as np

from jaxgpt.devices.cpu import make_devices
from jaxgpt.errors import require
from jaxgpt.generation.beam import Beams, search
from jaxgpt.generation.options import SampleOptions
from jaxgpt.generation.pair import require_decoder
from jaxgpt.generation.prompt import cropping_note
from jaxgpt.generation.stream import NOTHING, Piece, stream
from jaxgpt.generation.text import TextCodec, Writer
from jaxgpt.model import GPT
from jaxgpt.model.quantized import WeightsChoice, with_weights
from jaxgpt.storage.model_directory import ModelDirectory

BETWEEN = "\n---------------\n"  # separates two samples


def sample(
    directory: Path,
    prompt: str,
    options: SampleOptions,
    *,
    tokenizer: Path | None,
    errors: Literal["strict", "skip"],
    stop: Sequence[str],
    beams: Beams,
    weights: WeightsChoice,
) -> str:
    """Print the texts that the model in `directory` generates after `prompt`; return the speed.

    Remarks go to standard error. A text also ends before the first of the texts in `stop`. More
    than one of the `beams` searches for the likeliest text.
    """
    make_devices()
    opened = ModelDirectory(directory)
    require_decoder(opened)
    codec = TextCodec.of(opened, tokenizer)
    require(
        codec.tokenizer is not None or not stop,
        f"--stop takes text, and {directory} has no tokenizer.",
    )
    ids = codec.encode(prompt, errors)
    options = dataclasses.replace(options, **codec.limits(opened.config.vocab_size))
    context = options.context_of(opened.config)
    for remark in (cropping_note(len(ids), context), *_remarks(opened, codec, tokenizer)):
        if remark:
            _note(remark)
    model, rows = with_weights(opened.model(), weights), [ids or [codec.start]]
    with Clock() as clock:
        pieces = _pieces(model, rows, options, beams)
        writers = [Writer(codec, stop) for _ in range(options.samples)]
        tokens_b = _print_texts(codec.decode(ids), pieces, writers, clock)
    capacity = context + 1 - min(max(len(ids), 1), context)
    cut_short = capacity < options.max_new_tokens and (tokens_b == capacity).any()
    if cut_short and (options.on_full == "stop" or beams.count > 1):
        why = "beams end" if beams.count > 1 else "--on-full stop ended"
        _note(f"The model sees {context} tokens, and {why} the text there.")
    return clock.summary()


def _remarks(opened: ModelDirectory, codec: TextCodec, tokenizer: Path | None) -> Iterator[str]:
    """Notes on what users may not expect of this model and its tokenizer."""
    vocab_size = opened.config.vocab_size
    if codec.tokenizer is None:
        yield (
            f"{opened.path} has no tokenizer: prompt and output are ids. "
            "For text, name its tokenizer with --tokenizer."
        )
    if codec.tokenizer and tokenizer:
        unused = int((~codec.tokenizer.decodable(vocab_size)).sum())
        if unused:
            yield (
                f"{unused} of the model's {vocab_size} ids are unknown to {tokenizer}: "
                "they are never chosen."
            )


def _pieces(
    model: GPT, rows: list[list[int]], options: SampleOptions, beams: Beams
) -> Iterator[Piece]:
    """The new text as it is drawn, or the one that several `beams` find in one piece."""
    if beams.count == 1:
        return stream(model, rows, options)
    (text,) = search(model, rows, options, beams)
    return iter([Piece(np.array([text.ids]), np.array([[text.logprob]]))])


def _print_texts(
    prompt: str, pieces: Iterator[Piece], writers: Sequence[Writer], clock: "Clock"
) -> np.ndarray:
    """Print the first text as it comes, then the others; return the number of tokens of each."""
    _show(prompt)
    waiting, tokens_b = [""] * len(writers), np.zeros(len(writers), int)
    for piece in pieces:
        tokens_b += (piece.ids != NOTHING).sum(axis=1)
        clock.tick(int(tokens_b.sum()))
        for i, (writer, row) in enumerate(zip(writers, piece.ids, strict=True)):
            waiting[i] += writer.add(row[row != NOTHING])
        _show(waiting[0])
        waiting[0] = ""
        if all(writer.ended for writer in writers):
            break
    _show(waiting[0] + writers[0].end())
    for writer, text in zip(writers[1:], waiting[1:], strict=True):
        _show(BETWEEN + prompt + text + writer.end())
    _show("\n")
    return tokens_b


def _show(text: str) -> None:
    print(text, end="", flush=True)


def _note(text: str) -> None:
    print(text, file=sys.stderr)


class Clock:
    """Measures the speed of generation, without the time that compilation takes."""

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
            # A span that began later is nested in this one.
            earlier = [span for span in self.spans if span[0] < start_time]
            self.spans = [*earlier, (start_time, end_time)]

    @property
    def compiling(self) -> float:
        """Seconds of compilation so far."""
        return sum(end - start for start, end in self.spans)

    def tick(self, tokens: int) -> None:
        """Record that `tokens` tokens have been generated by now."""
        self.ticks.append((tokens, time.perf_counter() - self.started - self.compiling))

    def summary(self) -> str:
        """One line with the number of tokens, the time to the first and the speed after it."""
        (at_once, first), (count, last) = self.ticks[0], self.ticks[-1]
        speed = (
            f", then {(count - at_once) / max(last - first, 1e-9):,.0f} tokens/s"
            if count > at_once
            else ""
        )
        compiling = f"compiling took {self.compiling:.2f} s"
        return f"tokens: {count}; {compiling}; the first came after another {first:.3f} s{speed}"

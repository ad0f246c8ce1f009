"""Attention weights and next-token probabilities of a model on one text, as terminal tables."""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text as Cell

from jaxgpt.errors import require
from jaxgpt.generation.attention_map import AttentionMap
from jaxgpt.generation.inside import look
from jaxgpt.generation.pair import require_decoder
from jaxgpt.generation.score import log_softmax
from jaxgpt.generation.text import TextCodec
from jaxgpt.model import GPT
from jaxgpt.storage import model_directory, plots


class Seen(NamedTuple):
    """The model's view of a text: attention weights and next-token log-probabilities."""

    ids: list[int]
    names: list[str]  # the printable text of every id in the vocabulary
    weights_lnts: np.ndarray  # attention of token t to token s
    logprobs_tv: np.ndarray  # of each id as the token after t


def look_at(
    directory: Path,
    text: str,
    tokenizer: Path | None,
    errors: Literal["strict", "skip"],
    picture: Path | None,
) -> Seen:
    """Run the model in `directory` on `text`; draw its attention to `picture` if one is named."""
    if picture:
        plots.require_format(picture)
    opened = model_directory.ModelDirectory(directory)
    require_decoder(opened)
    codec = TextCodec.of(opened, tokenizer)
    ids = codec.encode(text, errors)
    require(bool(ids), "There is no text to look at: give some with --text.")
    require(
        len(ids) <= opened.config.context_length,
        f"The text has {len(ids)} tokens, and the model sees {opened.config.context_length} "
        "at a time: give a shorter one.",
    )
    names = names_of_ids(codec, opened.config.vocab_size)
    weights_lnts, logprobs_tv = inside(opened.model(), ids)
    seen = Seen(ids, names, weights_lnts, logprobs_tv)
    if picture:
        plots.draw_attention(seen.weights_lnts, [names[i] for i in ids], picture)
    return seen


def names_of_ids(codec: TextCodec, vocab_size: int) -> list[str]:
    """The printable text of each id below `vocab_size`, or #7 for an id that has none."""
    names = [f"#{i}" for i in range(vocab_size)]
    if codec.tokenizer:
        for i in codec.tokenizer.decodable(vocab_size).nonzero()[0].tolist():
            names[i] = visible_text(codec.decode([i]))
    return names


def visible_text(token: str) -> str:
    """`token` with control characters escaped and spaces made visible."""
    return repr(token)[1:-1].replace(" ", "\N{OPEN BOX}")


def inside(model: GPT, ids: list[int]) -> tuple[np.ndarray, ...]:
    """Attention weights (L, N, T, T) and next-token log-probabilities (T, V) for `ids`."""
    computed = look(model, [ids])
    weights_lnts, logits_tv = finite(computed.attention[:, 0], computed.logits[0])
    return weights_lnts, log_softmax(logits_tv)


def finite(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """The `arrays`; one with numbers that are not finite is refused."""
    require(
        all(bool(np.isfinite(array).all()) for array in arrays),
        "The model's attention or logits for this text are not finite numbers: "
        "its weights are damaged.",
    )
    return arrays


def map_of(seen: Seen) -> AttentionMap:
    """The attention of each token to itself and those before it."""
    names = [seen.names[i] for i in seen.ids]
    visible_ts = np.tri(len(names), dtype=bool)
    whole = "a pipe, or a picture (--out),"
    return AttentionMap(seen.weights_lnts, names, names, visible_ts, whole)


def token_table(seen: Seen, alternatives: int) -> Table:
    """Table of each token's probability and rank, and the `alternatives` most likely tokens."""
    require(alternatives >= 0, f"--top must not be negative, but is {alternatives}.")
    table = Table(
        "token", "probability", "rank", "most likely others", box=None, padding=(0, 2, 0, 0)
    )
    for t, i in enumerate(seen.ids):
        if t == 0:
            table.add_row(Cell(seen.names[i]), "", "", "")
            continue
        logp = seen.logprobs_tv[t - 1]
        rank = int((logp > logp[i]).sum()) + 1
        likeliest = np.argsort(-logp, kind="stable")[:alternatives]
        others = "  ".join(f"{seen.names[j]} {np.exp(logp[j]):.2f}" for j in likeliest if j != i)
        table.add_row(Cell(seen.names[i]), f"{np.exp(logp[i]):.4f}", str(rank), Cell(others))
    return table

"""Attention weights and next-token probabilities of a model on one text, as terminal tables."""

from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.cells import cell_len
from rich.console import Group
from rich.table import Column, Table
from rich.text import Text as Cell

from jaxgpt.errors import UserError, require
from jaxgpt.generation.text import TextCodec
from jaxgpt.model import GPT, cast, check_tokens, exactly
from jaxgpt.model.attention_forms import Scale, attention_weights, chunked, sum_dtype
from jaxgpt.model.spec import Scores
from jaxgpt.storage import model_directory, plots

PADDING = 1  # on both sides of a column
SHADES = ("grey23", "grey42", "yellow4", "gold3", "orange1")


class Seen(NamedTuple):
    """The model's view of a text: attention weights and next-token log-probabilities."""

    ids: list[int]
    names: list[str]  # the printable text of every id in the vocabulary
    weights_lnts: np.ndarray  # attention of token t to token s
    logprobs_tv: np.ndarray  # of each id as the token after t


def look(
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
    codec = TextCodec.of(opened, tokenizer)
    ids = codec.encode(text, errors)
    require(bool(ids), "There is no text to look at: give some by --text.")
    require(
        len(ids) <= opened.config.context_length,
        f"The text has {len(ids)} tokens, and the model sees {opened.config.context_length} "
        "at a time: give less.",
    )
    names = names_of_ids(codec, opened.config.vocab_size)
    seen = Seen(ids, names, *inside(opened.model(), ids))
    if picture:
        plots.draw_attention(seen.weights_lnts, [names[i] for i in ids], picture)
    return seen


def names_of_ids(codec: TextCodec, vocab_size: int) -> list[str]:
    """The printable text of each id below `vocab_size`, or #7 for an id that has none."""
    names = [f"#{i}" for i in range(vocab_size)]
    if codec.tokenizer:
        for i in codec.tokenizer.decodable(vocab_size).nonzero()[0].tolist():
            names[i] = shown(codec.decode([i]))
    return names


def shown(token: str) -> str:
    """`token` with control characters escaped and spaces made visible."""
    return repr(token)[1:-1].replace(" ", "\N{OPEN BOX}")


def inside(model: GPT, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Attention weights (L, N, T, T) and next-token log-probabilities (T, V) for `ids`."""
    check_tokens(np.array([ids]), model.config)

    @jax.jit
    def run(model: GPT, tokens_bt: jax.Array) -> tuple[jax.Array, jax.Array]:
        def attend(
            q: jax.Array, k: jax.Array, v: jax.Array, scale: Scale, scores: Scores
        ) -> tuple[jax.Array, jax.Array]:
            weights_mgts = attention_weights(q, k, scale, scores)[0]
            return chunked(q, k, v, scale, scores), jnp.concatenate(weights_mgts)

        positions = jnp.arange(tokens_bt.shape[1])
        x, weights = model.run(
            model.embed(tokens_bt), lambda block, layer, x, _: block(x, layer, positions, attend)
        )
        logits = model.read_out(x)[0]
        return weights.astype(sum_dtype(weights)), jax.nn.log_softmax(
            logits.astype(sum_dtype(logits))
        )

    with exactly(model.dtype):
        weights, logprobs = run(cast(model, model.dtype), jnp.asarray([ids]))
    require(
        bool(np.isfinite(logprobs).all() and np.isfinite(weights).all()),
        "The model's attention or logits for this text are not finite numbers: "
        "its weights are damaged.",
    )
    return np.asarray(weights), np.asarray(logprobs)


def attention_table(seen: Seen, layer: int, head: int | None, width: int | None = None) -> Group:
    """Table of attention in hundredths, from the token of each row to those of the columns.

    It shows `head` of `layer`, or the mean of all heads. Where the table would be wider than
    `width`, the first tokens are left out, and the title says so.
    """
    layers, heads, length, _ = seen.weights_lnts.shape
    for name, value, count in (("layer", layer, layers), ("head", head or 0, heads)):
        if not -count <= value < count:
            raise UserError(f"There is no {name} {value}: they are 0 to {count - 1}.")
    weights = seen.weights_lnts[layer]
    weights = weights.mean(axis=0) if head is None else weights[head]
    shares = np.rint(100 * weights).astype(int)
    columns = [seen.names[i] for i in seen.ids]
    first = 0 if width is None else _first_that_fits(columns, shares, width)
    whose = "mean of all heads" if head is None else f"head {head}"
    title = f"layer {layer % layers}, {whose}, in hundredths"
    if first:
        title += (
            f"\nThe last {length - first} of {length} tokens: "
            "a pipe, or a picture (--out), has all."
        )
    names = (Column(Cell(name)) for name in columns[first:])
    table = Table("", *names, box=None, padding=(0, PADDING))
    for row in range(first, length):
        cells = [Cell(str(share), shade(share)) for share in shares[row, first : row + 1].tolist()]
        table.add_row(Cell(columns[row]), *cells)
    return Group(Cell(title), table)


def _first_that_fits(names: list[str], shares: np.ndarray, width: int) -> int:
    """The first column to show so that it and all later ones fit in `width`."""
    widths = [
        max(cell_len(name), len(str(share)))
        for name, share in zip(names, shares.max(axis=0), strict=True)
    ]
    left = width - max(map(cell_len, names)) - 2 * PADDING
    for column in reversed(range(len(widths))):
        left -= widths[column] + 2 * PADDING
        if left < 0:
            return min(column + 1, len(widths) - 1)
    return 0


def shade(hundredths: int) -> str:
    """The colour of a cell; everything from 48 hundredths on has the brightest."""
    return SHADES[min(len(SHADES) - 1, hundredths * len(SHADES) // 60)]


def token_table(seen: Seen, alternatives: int) -> Table:
    """Table of each token's probability and rank, and the `alternatives` likeliest tokens."""
    require(alternatives >= 0, f"--top must not be negative, but is {alternatives}.")
    table = Table(
        "token", "probability", "rank", "likeliest instead", box=None, padding=(0, 2, 0, 0)
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

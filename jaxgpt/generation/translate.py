"""Texts that an encoder-decoder writes for sources: the encoder runs once for each batch.

Shapes: B rows, S time of the source, D model width.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxgpt.config import ModelConfig
from jaxgpt.devices.peers import BY_GROUP, SAME, make_groups, on_each_device, share
from jaxgpt.errors import UserError, require
from jaxgpt.generation.beam import Beams, search
from jaxgpt.generation.options import Choices, SampleOptions
from jaxgpt.generation.prompt import padded_width
from jaxgpt.generation.stream import NOTHING, stream
from jaxgpt.model import Seq2Seq, cast, check_tokens, exactly

BATCH = 32  # sources at a time


def translate(
    model: Seq2Seq,
    sources: Sequence[Sequence[int]],
    *,
    start: int,
    end: int,
    beams: int = 1,
    length_penalty: float = 1.0,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    **options: Unpack[Choices],
) -> Iterator[list[int]]:
    """The ids that `model` writes for each of the `sources`, in their order, as they are computed.

    A text begins after the id `start` and ends before `end`, or else at the end of the decoder's
    context, or after `max_new_tokens`. The other options are the fields of SampleOptions that say
    how tokens are chosen. With more than one of `beams`, a search finds the text with the greatest
    log-probability divided by length ** `length_penalty`.
    """
    config = model.config.decoder
    tokens = config.context_length if max_new_tokens is None else max_new_tokens
    chosen = SampleOptions(tokens, temperature, stop_ids=[end], on_full="stop", **options)
    for name, value in (("start", start), ("end", end)):
        require(
            0 <= value < config.vocab_size,
            f"{name} is {value}, which is not an id of the decoder: these are 0 to "
            f"{config.vocab_size - 1}.",
        )
    rows = checked_sources(sources, model.config.encoder)
    wanted = Beams(beams, length_penalty)
    return _in_batches(model, rows, start, chosen, wanted)


def checked_sources(sources: Sequence[Sequence[int]], config: ModelConfig) -> list[list[int]]:
    """The `sources`, each with at least one id and no more than an encoder of `config` reads."""
    for number, source in enumerate(sources, 1):
        if np.ndim(source) != 1:
            raise UserError(f"Sources are lists of ids, but source {number} is {source!r:.60}.")
        require(len(source) > 0, f"Source {number} is empty: each needs at least one token.")
        require(
            len(source) <= config.context_length,
            f"Source {number} has {len(source)} tokens, but the encoder reads at most "
            f"{config.context_length}: shorten it.",
        )
        check_tokens(np.asarray([source]), config)
    return [[*map(int, source)] for source in sources]


def _in_batches(
    model: Seq2Seq, rows: list[list[int]], start: int, options: SampleOptions, beams: Beams
) -> Iterator[list[int]]:
    """The texts of all rows; batches have the same number of rows, and each its own seed."""
    context = options.context or min(
        model.config.decoder.context_length, padded_width(options.max_new_tokens)
    )
    (end,) = options.stop_ids
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH]
        filled = batch + batch[-1:] * (min(BATCH, len(rows)) - len(batch))
        seed = (options.seed + first) % 2**32
        here = dataclasses.replace(options, context=context, seed=seed)
        texts = _write(model, filled, [[start]] * len(filled), here, beams)
        for text in texts[: len(batch) * options.samples]:
            yield text[: text.index(end)] if end in text else text


def _write(
    model: Seq2Seq,
    sources: list[list[int]],
    prompts: list[list[int]],
    options: SampleOptions,
    beams: Beams,
) -> list[list[int]]:
    """The new ids of each row, including the id that ends it."""
    source_bs, mask_bs = padded(sources, model.config.encoder.context_length)
    memory = encode(model, source_bs, mask_bs)
    if beams.count > 1:
        texts = search(model.decoder, prompts, options, beams, *memory)
        return [text.ids for text in texts]
    pieces = [piece.ids for piece in stream(model.decoder, prompts, options, *memory)]
    ids_bn = np.concatenate(pieces, axis=1)
    return [row[row != NOTHING].tolist() for row in ids_bn]


def padded(sources: list[list[int]], context: int) -> tuple[np.ndarray, np.ndarray]:
    """The `sources` (B, S) padded to one of a few widths, and where they are real."""
    lengths_b = np.array([len(source) for source in sources])
    width = min(context, padded_width(int(lengths_b.max())))
    mask_bs = np.arange(width) < lengths_b[:, None]
    source_bs = np.zeros(mask_bs.shape, np.int32)
    source_bs[mask_bs] = np.concatenate(sources)
    return source_bs, mask_bs


def encode(
    model: Seq2Seq, source_bs: np.ndarray, mask_bs: np.ndarray
) -> tuple[jax.Array, np.ndarray]:
    """The memory (B, S, D) that the encoder makes of the sources, on its device, and the mask."""
    mesh, _ = make_groups(model, *source_bs.shape)
    with exactly(model.dtype):
        weights = share(model, mesh) if mesh else model
        return _encode(weights, source_bs, mask_bs, model.dtype, mesh), mask_bs


@functools.partial(jax.jit, static_argnums=(3, 4))
def _encode(
    model: Seq2Seq,
    source_bs: jax.Array,
    mask_bs: jax.Array,
    dtype: jnp.dtype,
    mesh: Mesh | None,
) -> jax.Array:
    def program(model: Seq2Seq, source_bs: jax.Array, mask_bs: jax.Array) -> jax.Array:
        return cast(model, dtype).encode(source_bs, mask_bs)

    on_each = on_each_device(program, mesh, (SAME, BY_GROUP, BY_GROUP), BY_GROUP)
    return on_each(model, source_bs, mask_bs)

"""Attention of an encoder-decoder over a source and its target: in each side, and across.

Shapes: L layers, N heads, T tokens of the target, S tokens of the source, V vocabulary.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxgpt.errors import require
from jaxgpt.generation.attention_map import AttentionMap
from jaxgpt.generation.inside import look
from jaxgpt.generation.inspect import Seen, finite, names_of_ids
from jaxgpt.generation.pair import Pair, PairOptions, require_pair
from jaxgpt.generation.score import log_softmax
from jaxgpt.generation.translate import checked_sources, translate
from jaxgpt.model import Seq2Seq
from jaxgpt.storage import model_directory, plots


class SeenPair(NamedTuple):
    """The model's view of a source and a target."""

    maps: list[AttentionMap]  # of the encoder, the decoder, and across
    target: Seen  # after the id that it starts with


def look_pair(
    directory: Path, source: str, text: str, options: PairOptions, picture: Path | None
) -> SeenPair:
    """Run the model in `directory` on `source` and the target `text`, or the one that it writes.

    If a `picture` is named, the cross-attention of the last layer is drawn to it.
    """
    if picture:
        plots.require_format(picture)
    opened = model_directory.ModelDirectory(directory)
    require_pair(opened)
    pair, model = Pair(opened, options), opened.model()
    (source_ids,) = checked_sources(pair.encode([source]), pair.config.encoder)
    context = pair.config.decoder.context_length
    if text:
        target_ids = pair.target.encode(text, options.errors)
        require(
            len(target_ids) < context,
            f"The text has {len(target_ids)} tokens, and the decoder sees {context} at a time, "
            "including the one that it starts with: give a shorter one.",
        )
    else:
        (target_ids,) = translate(model, [source_ids], **pair.target_ids())
    read_ids = [pair.start, *target_ids][:context]
    written_ids = [*target_ids, pair.end][: len(read_ids)]
    source_names = names_of_ids(pair.source, pair.config.encoder.vocab_size)
    target_names = _target_names(pair)
    columns = [source_names[i] for i in source_ids]
    read, written = ([target_names[i] for i in ids] for ids in (read_ids, written_ids))
    encoder, decoder, across, logprobs_tv = inside_pair(model, source_ids, read_ids)
    maps = _maps(columns, read, written, (encoder, decoder, across))
    if picture:
        plots.draw_alignment(across[-1], written, columns, picture)
    ids = [pair.start, *written_ids]
    return SeenPair(maps, Seen(ids, target_names, decoder, logprobs_tv))


def _maps(
    source: list[str], read: list[str], written: list[str], weights: tuple[np.ndarray, ...]
) -> list[AttentionMap]:
    """The attention in the encoder, in the decoder, and from what is `written` to the `source`."""
    encoder, decoder, across = weights
    all_ss, all_ts = np.ones((len(source), len(source)), bool), np.ones(across.shape[2:], bool)
    causal_tt, whole = np.tri(len(read), dtype=bool), "a pipe, or a picture (--out),"
    return [
        AttentionMap(encoder, source, source, all_ss, "a pipe", "encoder, "),
        AttentionMap(decoder, read, read, causal_tt, "a pipe", "decoder, "),
        AttentionMap(across, written, source, all_ts, whole, "from text to source, "),
    ]


def _target_names(pair: Pair) -> list[str]:
    """The printable text of every id of the targets."""
    names = names_of_ids(pair.target, pair.config.decoder.vocab_size)
    for mark, name in ((pair.start, "[start]"), (pair.end, "[end]")):
        if names[mark] == f"#{mark}":
            names[mark] = name
    return names


def inside_pair(model: Seq2Seq, source: list[int], tokens: list[int]) -> tuple[np.ndarray, ...]:
    """Attention weights in the encoder (L, N, S, S), in the decoder (L, N, T, T) and across (L, N,
    T, S), and log-probabilities (T, V) of the token after each of `tokens`.
    """

    computed = look(model, [tokens], [source])
    attention = computed.encoder_attention, computed.attention, computed.cross_attention
    *weights, logits_tv = finite(*(each[:, 0] for each in attention), computed.logits[0])
    return *weights, log_softmax(logits_tv)

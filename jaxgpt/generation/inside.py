"""The logits, hidden states and attention weights of a model on ids, by one call.

Shapes: B batch, L layers, N heads, T tokens, S tokens of a source, D model width, V vocabulary.
"""

from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxgpt.errors import require
from jaxgpt.generation.score import require_sides
from jaxgpt.model import GPT, Seq2Seq, cast, check_mask, check_source, check_tokens, exactly
from jaxgpt.model.attention import Attend, Memory, attending_to_all
from jaxgpt.model.attention_forms import Scale, attention_weights, chunked
from jaxgpt.model.block import Block
from jaxgpt.model.precision import sum_dtype
from jaxgpt.model.spec import Scores


class Inside(NamedTuple):
    """The arrays that a model computes for ids; the last three are those of an encoder-decoder.

    Hidden state 0 is the embedding, and number i the stream after block i, before the final norm.
    """

    logits: np.ndarray  # B T V
    hidden_states: np.ndarray  # L + 1, B T D
    attention: np.ndarray  # L B N T T; row t has the weights by which token t mixes the others
    encoder_hidden_states: np.ndarray | None = None  # L + 1, B S D
    encoder_attention: np.ndarray | None = None  # L B N S S
    cross_attention: np.ndarray | None = None  # L B N T S


class InsidePair(Inside):
    """The arrays that an encoder-decoder computes: it has all six."""

    encoder_hidden_states: np.ndarray
    encoder_attention: np.ndarray
    cross_attention: np.ndarray


@overload
def look(model: GPT, ids: ArrayLike) -> Inside: ...
@overload
def look(
    model: Seq2Seq, ids: ArrayLike, source: ArrayLike, source_mask: ArrayLike | None = None
) -> InsidePair: ...
def look(
    model: GPT | Seq2Seq,
    ids: ArrayLike,
    source: ArrayLike | None = None,
    source_mask: ArrayLike | None = None,
) -> Inside:
    """The logits, the hidden states of all layers and the attention of `model` for `ids` (B, T).

    An encoder-decoder also takes the ids `source` (B, S). `source_mask` (B, S) is true where they
    are not padding; by default nothing is padding.
    """
    require_sides(model, source)
    with exactly(model.dtype):
        if isinstance(model, Seq2Seq):
            assert source is not None
            inputs = _checked(model, ids, source, source_mask)
            arrays = _of_pair(cast(model, model.dtype), *map(jnp.asarray, inputs))
            return InsidePair(*map(_on_host, arrays))
        require(
            not model.config.cross_attention,
            "This decoder attends to a memory, which look does not take: pass the "
            "encoder-decoder that it belongs to.",
        )
        check_tokens(ids, model.config)
        arrays = _of_decoder(cast(model, model.dtype), jnp.asarray(ids, jnp.int32))
        return Inside(*map(_on_host, arrays))


def _on_host(array: jax.Array) -> np.ndarray:
    return np.asarray(array.astype(sum_dtype(array)))


def _checked(
    model: Seq2Seq, ids: ArrayLike, source: ArrayLike, mask: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ids of both sides and the mask of the source, as the model takes them."""
    mask_bs = np.ones(np.shape(source), bool) if mask is None else np.asarray(mask)
    check_tokens(ids, model.config.decoder)
    check_source(source, model.config.encoder)
    check_mask(mask_bs, np.shape(source), len(np.asarray(ids)))
    return np.asarray(ids, np.int32), np.asarray(source, np.int32), mask_bs


@jax.jit
def _of_decoder(model: GPT, tokens_bt: jax.Array) -> tuple[jax.Array, ...]:
    return _decoded(model, tokens_bt, None)[:3]


@jax.jit
def _of_pair(
    model: Seq2Seq, tokens_bt: jax.Array, source_bs: jax.Array, mask_bs: jax.Array
) -> tuple[jax.Array, ...]:
    memory_bsd, streams, weights = _encoded(model, source_bs, mask_bs)
    memory = WatchedMemory(*model.decoder.memory(memory_bsd, mask_bs))
    *decoded, across = _decoded(model.decoder, tokens_bt, memory)
    return *decoded, streams, weights, across


def _decoded(model: GPT, tokens_bt: jax.Array, memory: Memory | None) -> tuple[Any, ...]:
    """The logits, hidden states and attention of a decoder, and that to a `memory` or None."""
    positions = jnp.arange(tokens_bt.shape[1])

    def apply(block: Block, layer: jax.Array, x: jax.Array, memory: Memory | None) -> Any:
        x, weights = block(x, layer, positions, _causal_and_watched, memory=memory)
        return x, (x, *weights)

    embedding = model.embed(tokens_bt)
    x, (streams, own, across) = model.run(embedding, apply, memory)
    hidden_states = jnp.concatenate([embedding[None], streams])
    return model.read_out(x), hidden_states, own, across


def _encoded(
    model: Seq2Seq, source_bs: jax.Array, mask_bs: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The memory (B, S, D), and the encoder's hidden states and attention."""
    places, attend = jnp.arange(source_bs.shape[1]), _to_all_and_watched(mask_bs)

    def apply(block: Block, layer: jax.Array, x: jax.Array, _: Memory | None) -> Any:
        x, weights = block(x, layer, places, attend)
        return x, (x, weights.own)

    embedding = model.embed_source(source_bs)
    x, (streams, weights) = model.encoder.run(embedding, apply)
    return model.encoder.normalise(x), jnp.concatenate([embedding[None], streams]), weights


class WatchedMemory(Memory):
    """A memory; attending to it also gives the weights (B, N, T, S)."""

    @property
    def attend(self) -> Attend:
        return _to_all_and_watched(self.mask_bs)


def _to_all_and_watched(mask_bs: jax.Array) -> Attend:
    """The Attend to all positions in `mask_bs` whose other output is the weights."""

    def attend(
        q: jax.Array, k: jax.Array, v: jax.Array, scale: Scale, scores: Scores
    ) -> tuple[jax.Array, jax.Array]:
        weights_bmgts = attention_weights(q, k, scale, scores, mask_bs)
        return attending_to_all(mask_bs)(q, k, v, scale, scores)[0], _by_head(weights_bmgts)

    return attend


def _causal_and_watched(
    q: jax.Array, k: jax.Array, v: jax.Array, scale: Scale, scores: Scores
) -> tuple[jax.Array, jax.Array]:
    """Causal attention, as an Attend whose other output is the weights (B, N, T, T)."""
    weights_bmgts = attention_weights(q, k, scale, scores)
    return chunked(q, k, v, scale, scores), _by_head(weights_bmgts)


def _by_head(weights_bmgts: jax.Array) -> jax.Array:
    """The weights (B, N, T, S) with one axis for all heads of queries."""
    rows, heads, groups, queries, keys = weights_bmgts.shape
    return weights_bmgts.reshape(rows, heads * groups, queries, keys)

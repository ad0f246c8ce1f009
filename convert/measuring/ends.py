"""Measures the stages before the first block and after the last one."""

import math
from collections.abc import Iterator
from typing import Any

import torch

from jaxgpt.model.positions import sinusoids

from ..foreign.forward import are_log_probabilities
from .measured_fields import factor, near
from .norm import Norm, measured, round_number, same
from .subject import Parted, Subject, UnknownExit

ROUNDING = 1e-12  # tolerance of a factor


def entrances(s: Subject) -> Iterator[tuple[dict[str, Any], torch.Tensor]]:
    """The fields that the embedding may have, each with the stream before the first block."""
    seen, c = s.pairs_of_tokens, s.config
    first = s.torch_name("blocks/attn/qkv/kernel")
    last = min((use.at for use in seen.products(first or "")), default=2**62)
    vectors = s.table[s.ids]
    tables = _tables(s)
    values = seen.ordered_values(c.model_dim, last)
    for x in values:
        for name, table in tables.items():
            rest = x - table
            ratio = float((rest * vectors).sum() / (vectors**2).sum())
            scale = factor(ratio, c.model_dim)
            ours = scale * vectors + table
            if ratio and same(ours, x):
                fields = {"embedding_scale": scale, **_table_fields(name)}
                yield from ((fields | extra, y) for extra, y in _normalised(s, ours, values))
                return
    raise Parted(s.embedding, "it is not a sum of scaled embeddings and positions")


def _tables(s: Subject) -> dict[str, torch.Tensor]:
    """The vectors that may be added to the embeddings of two tokens, by name."""
    if s.config.position_rows:
        first = s.config.positions_offset
        return {"stored": s.params["pos_embedding/embedding"][first : first + 2]}
    width = s.config.model_dim
    waves = {
        f"sinusoidal {layout}": torch.from_numpy(sinusoids(2, width, layout))
        for layout in ("interleaved", "half")
    }
    return {"none": torch.zeros(2, width), **waves}


def _table_fields(name: str) -> dict[str, Any]:
    kind, _, layout = name.partition(" ")
    fields = {"table": kind}
    return {**fields, "sinusoidal_layout": layout} if layout else fields


def _normalised(
    s: Subject, x: torch.Tensor, values: list[torch.Tensor]
) -> Iterator[tuple[dict[str, Any], torch.Tensor]]:
    """Candidates for the stream after the embedding: `x`, and its norm if there may be one."""
    if s.config.norm_weight and "embedding" not in s.config.extra_norms:
        yield {"extra_norms": []}, x
        return
    if not s.config.norm_weight:  # a norm without weights shows only in later stages
        yield {"extra_norms": []}, x
    parameters = s.norm_params("embedding_norm")
    for value in values:
        if measured(x, value, parameters, s.config.norm_weight):
            yield {"extra_norms": ["embedding"]}, value


def exit_fields(s: Subject, norm: Norm, x: torch.Tensor) -> dict[str, Any]:
    """The fields of the final norm and the logits, for the stream `x` after the last block."""
    seen, c = s.pairs_of_tokens, s.config
    name = s.torch_name("token_embedding/embedding" if c.tied else "head/kernel")
    head_input = seen.input_of(name or "", c.model_dim)
    if head_input is None:
        raise Parted(
            "the head",
            "its forward multiplies nothing with it: wrap the class in a module whose forward "
            "returns logits",
        )
    streams = _streams(s, norm, x)
    chosen = _chosen(streams, head_input)
    if chosen is None:
        raise UnknownExit(
            s.last_block, "neither the stream after it nor its final norm goes into the head"
        )
    kernel = s.table.T if c.tied else s.params["head/kernel"]
    logits = streams[chosen] @ kernel
    if (bias := s.param("head/bias")) is not None:
        logits = logits + bias
    return {"final_norm": chosen, **_logit_fields(logits, seen.logits)}


def memory_of(s: Subject, norm: Norm, x: torch.Tensor) -> tuple[dict[str, Any], torch.Tensor]:
    """The field of an encoder's final norm, and the memory, for the stream `x` after its blocks."""
    assert s.decoder is not None
    inputs, streams = s.decoder.cross_inputs(0), _streams(s, norm, x)
    for final in (True, "unused", False):
        if final in streams and any(same(streams[final], each) for each in inputs):
            return {"final_norm": final}, streams[final]
    raise UnknownExit(
        s.last_block,
        "neither the stream after it nor its final norm is what cross-attention gets",
    )


def _streams(s: Subject, norm: Norm, x: torch.Tensor) -> dict[Any, torch.Tensor]:
    """Candidates for the output of this side by final_norm; `x` is that of its last block."""
    streams: dict[Any, torch.Tensor] = {"unused" if "final_norm/scale" in s.params else False: x}
    if s.has_norm("final_norm"):
        streams[True] = norm(x, s.norm_params("final_norm"))
    return streams


def _chosen(streams: dict[Any, torch.Tensor], head_input: torch.Tensor) -> Any:
    """The name of the stream that is the head's input up to a factor; None if there is none.

    Normalising a stream twice only scales it by nearly 1, so of two such streams the one with the
    rounder factor is chosen.
    """
    errors = {}
    for final in (True, "unused", False):
        if final in streams:
            stream = streams[final]
            ratio = float((stream * head_input).sum() / (stream**2).sum())
            if same(ratio * stream, head_input):
                errors[final] = abs(ratio / _exact(ratio) - 1)
    return next((each for each in errors if errors[each] <= min(errors.values()) + ROUNDING), None)


def _logit_fields(ours: torch.Tensor, theirs: torch.Tensor) -> dict[str, Any]:
    """The scale and the cap with which `ours` become `theirs`."""
    if ours.shape != theirs.shape:
        raise Parted("the logits", f"they are {tuple(theirs.shape)}, here {tuple(ours.shape)}")
    if are_log_probabilities(theirs):
        return _fields_before_softmax(ours, theirs)
    ratio = float((ours * theirs).sum() / (ours**2).sum())
    if same(ratio * ours, theirs):
        return {"logit_scale": _exact(ratio), "logit_softcap": None}
    order = theirs.abs().flatten().argsort()
    sizes, values = ours.flatten()[order], theirs.flatten()[order]
    middle, most = len(order) // 2, len(order) - 1

    def bend(cap: float) -> float:
        """How much the scale of the largest logit exceeds that of a median one, given `cap`."""
        one, two = (
            cap * math.atanh(float(values[i]) / cap) / float(sizes[i]) for i in (most, middle)
        )
        return one / two - 1

    low = float(values[most].abs()) * (1 + 1e-9)
    high = 1e6 * low
    for _ in range(200):
        half = (low * high) ** 0.5
        low, high = (half, high) if bend(half) > 0 else (low, half)
    cap = round_number(low)
    scale = _exact(cap * math.atanh(float(values[middle]) / cap) / float(sizes[middle]))
    if not same(cap * torch.tanh(scale * ours / cap), theirs):
        raise Parted("the logits", "no scale and no cap of the head's outputs gives them")
    return {"logit_scale": scale, "logit_softcap": cap}


def _fields_before_softmax(ours: torch.Tensor, theirs: torch.Tensor) -> dict[str, Any]:
    """The scale with which the log_softmax of `ours` is `theirs`."""
    one, two = (each - each.mean(-1, keepdim=True) for each in (ours, theirs))
    scale = _exact(float((one * two).sum() / (one**2).sum()))
    if not same((scale * ours).log_softmax(-1), theirs):
        raise Parted("the logits", "no scale of the head's outputs gives its probabilities")
    return {"logit_scale": scale, "logit_softcap": None}


def _exact(ratio: float) -> float:
    return 1.0 if near(ratio, 1.0) else round_number(ratio)

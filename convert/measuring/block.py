"""Measures the fields of a block from the inputs that the class multiplies by each of its
matrices."""

import contextlib
import dataclasses
from collections.abc import Iterator

import torch

from .attention import (
    Heads,
    Rotation,
    across,
    difference,
    heads_seen,
    second_weights,
    sees_itself,
)
from .joins import CROSS_PLACE, Entrance, after_mlp, join, joined, update
from .mlp import activation_of
from .norm import measured, same
from .subject import BlockForm, OtherHeads, Parted, Subject, UnknownScores, furthest_of

SCORES = "its scores are not rotated, scaled or capped products of queries and keys"
NO_NORM = "no norm of the stream gives the input of its attention"
NO_MIXTURE = "the output of its attention is not a mixture of values, head by head"
NOT_CAUSAL = "its attention is not causal: a position sees those after it"
NO_MEMORY = "its cross-attention does not mix the memory by scores like those of its attention"
SELF, CROSS = "blocks/attn", "blocks/cross_attn"
Tensor = torch.Tensor


def first_blocks(s: Subject, x: Tensor) -> Iterator[tuple[BlockForm, Rotation, Tensor]]:
    """The possible forms of the blocks, each with the first rotation and the stream after block 0.

    For a stream with mean 0, LayerNorm and RMSNorm without weights are equal; only a later block or
    the final norm shows which one it is.
    """
    problem: Parted | None = Parted(s.block(0), NO_NORM, part=-1)
    for entrance in _entrances(s, x):
        try:
            yield _measured(s, x, entrance)
            problem = None
        except Parted as parted:
            problem = problem and furthest_of(problem, parted)
    if problem:
        raise problem


def next_block(
    s: Subject, form: BlockForm, before: Rotation, x: Tensor, layer: int
) -> tuple[Rotation, Tensor]:
    """The rotation of block `layer`, and the stream after it."""
    y = (
        x
        if form.placement in ("post", "output")
        else form.norm(x, s.norm_params("blocks/norm1", layer))
    )
    seen = s.attention_inputs(layer)
    if seen and not any(same(y, each) for each in seen):
        raise Parted(s.block(layer - 1), "its output is not the input of the next block")
    products = _products(s, y, layer)
    mixed, share = _mixture(s, products[2], layer)
    rotation = _rotation(s, _heads(s, form, products, layer), share, before, layer)
    first = joined(s, form, (x, y), update(s, "blocks/attn", mixed, layer), layer)
    second = _across(s, form, rotation, first, layer)
    return rotation, after_mlp(s, form, second, layer)


def _entrances(s: Subject, x: Tensor) -> Iterator[Entrance]:
    inputs = s.attention_inputs(0)
    if not inputs:
        raise Parted(s.block(0), "the input of its queries, keys and values cannot be seen")
    for y in inputs:
        if same(x, y):
            yield Entrance(y, ("post", "output"), None)
        if s.has_norm("blocks/norm1"):
            for norm in measured(x, y, s.norm_params("blocks/norm1", 0), s.config.norm_weight):
                yield Entrance(y, ("pre", "residual"), norm)


def _measured(s: Subject, x: Tensor, entrance: Entrance) -> tuple[BlockForm, Rotation, Tensor]:
    """The form of block 0 whose attention has the input `entrance`."""
    products = _products(s, entrance.y, 0)
    mixed, share = _mixture(s, products[2], 0)
    form, first = join(s, x, entrance, mixed)
    form, rotation = _scored(s, form, products, share)
    second = _across(s, form, rotation, first, 0)
    form = dataclasses.replace(form, activation=activation_of(s, second[1]))
    return form, rotation, after_mlp(s, form, second, 0)


def _scored(
    s: Subject, form: BlockForm, products: list[Tensor], share: Tensor
) -> tuple[BlockForm, Rotation]:
    """The form with the place of the norms of queries and keys, and the rotation of block 0."""
    for place in _places(s):
        form = dataclasses.replace(form, qk_norm=place)
        with contextlib.suppress(Parted):
            return form, _rotation(s, _heads(s, form, products, 0), share, None, 0)
    raise UnknownScores(s.block(0), SCORES)


def _across(
    s: Subject, form: BlockForm, rotation: Rotation, first: tuple[Tensor, Tensor], layer: int
) -> tuple[Tensor, Tensor]:
    """The stream after cross-attention, and the input of the MLP; `first` if there is none."""
    if not s.config.cross_attention or s.memory is None:
        return first
    y = first[1]
    if not any(same(y, each) for each in s.cross_inputs(layer)):
        raise Parted(s.block(layer), "no order of norms gives the input of its cross-attention")
    q = _products(s, y, layer, CROSS)[0]
    _, k, v = _products(s, s.memory, layer, CROSS)
    mixed = across(_heads(s, form, [q, k, v], layer, CROSS), rotation)
    if s.config.attention_out:
        width = s.config.num_heads * s.config.head_dim
        seen = s.gets("cross_attn/out", layer, width)
        if seen is None or not same(mixed.flatten(2), seen):
            raise Parted(s.block(layer), NO_MEMORY)
    return joined(s, form, first, update(s, CROSS, mixed, layer), layer, CROSS_PLACE)


def _places(s: Subject) -> tuple[str, ...]:
    """The places at which queries and keys may be normalised."""
    if s.config.qk_norm == "full_width":
        return ("full_width",)
    if "blocks/attn/q_norm/scale" in s.params:
        return ("before_rotary", "after_rotary")
    # A norm of whole heads without weights is the same before and after rotation.
    return ("none",) if s.config.norm_weight else ("none", "before_rotary")


def _products(s: Subject, y: Tensor, layer: int, path: str = SELF) -> list[Tensor]:
    """Queries (B, T, M, G, h), keys and values (B, T, M, h) of the attention at `path`."""
    group = s.config.num_heads // s.config.num_kv_heads
    q, k, v = s.linear(f"{path}/qkv", layer, y).split([group, 1, 1], dim=3)
    return [q, k[:, :, :, 0], v[:, :, :, 0]]


def _mixture(s: Subject, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """The output of attention before its projection, and the weight of each second value."""
    c, problem = s.config, Parted(s.block(layer), NO_MIXTURE)
    for mixed in _mixtures(s, layer, c.num_heads * c.head_dim):
        split = mixed.reshape(*mixed.shape[:2], c.num_kv_heads, -1, c.head_dim)
        share = second_weights(split, v)
        if share is not None and (s.decoder is not None or sees_itself(split, v)):
            return split, share
        if share is not None:
            problem = Parted(s.block(layer), NOT_CAUSAL, part=1)
        seen = heads_seen(mixed, v.flatten(2)) if c.num_heads == c.num_kv_heads else 0
        if share is None and s.of_pair and c.model_dim % max(seen, 1) == 0 < seen:
            raise OtherHeads(s.block(layer), f"{s.prefix}num_heads", seen)
    raise problem


def heads_of(s: Subject, form: BlockForm, y: Tensor, layer: int) -> Heads:
    """The heads of block `layer`, whose attention has the input `y`, before they rotate."""
    return _heads(s, form, _products(s, y, layer), layer)


def _heads(
    s: Subject, form: BlockForm, products: list[Tensor], layer: int, path: str = SELF
) -> Heads:
    """The heads of the attention at `path` after their norms, before they rotate."""
    (q, k, v), norm = products, form.norm
    norms = [s.norm_params(f"{path}/{name}", layer) for name in ("q_norm", "k_norm")]
    if form.qk_norm == "full_width":
        flat = [(_flat(scale), _flat(bias)) for scale, bias in norms]
        q = norm(q.flatten(2), flat[0]).reshape(q.shape)
        k = norm(k.flatten(2), flat[1]).reshape(k.shape)
    elif form.qk_norm == "before_rotary":
        q, k = norm(q, norms[0]), norm(k, norms[1])
    elif form.qk_norm == "after_rotary":
        return Heads(q, k, v, (lambda x: norm(x, norms[0]), lambda x: norm(x, norms[1])))
    return Heads(q, k, v)


def _flat(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.flatten()


def _mixtures(s: Subject, layer: int, width: int) -> Iterator[Tensor]:
    """Candidates for the output of attention before its projection, as (B, T, `width`)."""
    if s.config.attention_out:
        mixed = s.gets("attn/out", layer, width)
        if mixed is not None:
            yield mixed
        return
    yield from s.pairs_of_tokens.ordered_values(width)


def _rotation(
    s: Subject, heads: Heads, share: Tensor, before: Rotation | None, layer: int
) -> Rotation:
    """The rotation that gives the weights `share`; that of the block `before` if it does."""
    if before is not None and _gives(before, heads, share):
        return before
    for rotation in s.solve(heads, share, before):
        if _gives(rotation, heads, share):
            return rotation
    raise UnknownScores(s.block(layer), SCORES)


def _gives(rotation: Rotation, heads: Heads, share: Tensor) -> bool:
    usable = torch.isfinite(share) & (share > 0) & (share < 1)
    gap = (torch.sigmoid(difference(heads, rotation)) - share).abs()
    return float(torch.where(usable, gap, torch.zeros_like(gap)).max()) < 1e-8

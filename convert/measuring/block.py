"""Measures the fields of a block from what the class multiplies with each of its matrices."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import torch

from .attention import Heads, Rotation, difference, second_weights
from .mlp import activation_of, hidden_layer, mlp_input
from .norm import Norm, measured, same
from .subject import BlockForm, Parted, Subject, UnknownScores, furthest_of

SCORES = "its scores are no rotated, scaled or capped products"
NO_NORM = "its attention has an input that no norm makes of the stream"
Tensor = torch.Tensor


class Entrance(NamedTuple):
    """The input of a block's attention, and how it comes from the stream."""

    y: Tensor
    placements: tuple[str, ...]
    norm: Norm | None  # None where the stream enters as it is


def first_blocks(s: Subject, x: Tensor) -> Iterator[tuple[BlockForm, Rotation, Tensor]]:
    """The possible forms of the blocks, each with the first rotation and the stream after block 0.

    Without weights, LayerNorm and RMSNorm of a stream whose mean is 0 are the same; only a later
    block or the final norm shows which one it is.
    """
    problem: Parted | None = Parted("block 0", NO_NORM)
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
    seen = s.gets("attn/qkv", layer, s.config.model_dim)
    if seen is not None and not same(y, seen):
        raise Parted(f"block {layer - 1}", "what leaves it is not what the next block gets")
    products = _products(s, y, layer)
    mixed, share = _mixture(s, products[2], layer)
    rotation = _rotation(s, _heads(s, form, products, layer), share, before, layer)
    joined = _joined(s, form, x, y, mixed, layer)
    return rotation, _after_mlp(s, form, x, joined, layer)


def _entrances(s: Subject, x: Tensor) -> Iterator[Entrance]:
    y = s.gets("attn/qkv", 0, s.config.model_dim)
    if y is None:
        raise Parted("block 0", "what it multiplies with its queries, keys and values is hidden")
    if same(x, y):
        yield Entrance(y, ("post", "output"), None)
    if s.has_norm("blocks/norm1"):
        for norm in measured(x, y, s.norm_params("blocks/norm1", 0), s.config.norm_weight):
            yield Entrance(y, ("pre", "residual"), norm)


def _measured(s: Subject, x: Tensor, entrance: Entrance) -> tuple[BlockForm, Rotation, Tensor]:
    """The form of block 0 whose attention has the input `entrance`."""
    products = _products(s, entrance.y, 0)
    mixed, share = _mixture(s, products[2], 0)
    form, joined = _join(s, x, entrance, mixed)
    form = dataclasses.replace(form, activation=activation_of(s, joined[1]))
    for place in _places(s):
        form = dataclasses.replace(form, qk_norm=place)
        with contextlib.suppress(Parted):
            rotation = _rotation(s, _heads(s, form, products, 0), share, None, 0)
            return form, rotation, _after_mlp(s, form, x, joined, 0)
    raise UnknownScores("block 0", SCORES)


def _places(s: Subject) -> tuple[str, ...]:
    """Where queries and keys may be normalised."""
    if s.config.qk_norm == "full_width":
        return ("full_width",)
    if "blocks/attn/q_norm/scale" in s.params:
        return ("before_rotary", "after_rotary")
    # Without weights, a norm of whole heads is the same before and after they rotate.
    return ("none",) if s.config.norm_weight else ("none", "before_rotary")


def _products(s: Subject, y: Tensor, layer: int) -> list[Tensor]:
    """Queries (B, T, M, G, h), keys and values (B, T, M, h) of block `layer`."""
    group = s.config.num_heads // s.config.num_kv_heads
    q, k, v = s.linear("blocks/attn/qkv", layer, y).split([group, 1, 1], dim=3)
    return [q, k[:, :, :, 0], v[:, :, :, 0]]


def _mixture(s: Subject, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """The output of attention before its projection, and the weight of each second value."""
    c = s.config
    for mixed in _mixtures(s, layer, c.num_heads * c.head_dim):
        split = mixed.reshape(*mixed.shape[:2], c.num_kv_heads, -1, c.head_dim)
        share = second_weights(split, v)
        if share is not None:
            return split, share
    raise Parted(f"block {layer}", "its attention gives no mixture of its values, head by head")


def heads_of(s: Subject, form: BlockForm, y: Tensor, layer: int) -> Heads:
    """The heads of block `layer`, whose attention has the input `y`, before they rotate."""
    return _heads(s, form, _products(s, y, layer), layer)


def _heads(s: Subject, form: BlockForm, products: list[Tensor], layer: int) -> Heads:
    """The heads of block `layer` after their norms, before they rotate."""
    (q, k, v), norm = products, form.norm
    norms = [s.norm_params(f"blocks/attn/{name}", layer) for name in ("q_norm", "k_norm")]
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
    """What may be the output of attention before its projection, as (B, T, `width`)."""
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
    raise UnknownScores(f"block {layer}", SCORES)


def _gives(rotation: Rotation, heads: Heads, share: Tensor) -> bool:
    usable = torch.isfinite(share) & (share > 0) & (share < 1)
    gap = (torch.sigmoid(difference(heads, rotation)) - share).abs()
    return float(torch.where(usable, gap, torch.zeros_like(gap)).max()) < 1e-8


def _update(s: Subject, mixed: Tensor, layer: int) -> Tensor:
    """The output of attention, before any norm of it."""
    if not s.config.attention_out:
        return mixed.flatten(2)
    return s.linear("blocks/attn/out", layer, mixed.flatten(2, 3))


def _join(
    s: Subject, x: Tensor, entrance: Entrance, mixed: Tensor
) -> tuple[BlockForm, tuple[Tensor, Tensor]]:
    """The form of block 0, and (stream after attention, input of the MLP)."""
    z, update = mlp_input(s, 0), _update(s, mixed, 0)
    for placement in entrance.placements:
        norms = [entrance.norm] if entrance.norm else []
        if placement == "post":
            norms = measured(x + update, z, s.norm_params("blocks/norm1", 0), s.config.norm_weight)
        if placement == "output":
            norms = measured(update, z - x, s.norm_params("blocks/norm1", 0), s.config.norm_weight)
        for each in norms:
            for residual, sandwich in _orders(s, placement):
                form = BlockForm(each, placement, residual, sandwich)
                joined = _joined(s, form, x, entrance.y, mixed, 0)
                if same(joined[1], z):
                    return form, joined
    raise Parted("block 0", "its MLP gets what no order of norms and sums gives")


def _orders(s: Subject, placement: str) -> Iterator[tuple[str, bool]]:
    """The residuals that a block may have, each with and without norms of its updates."""
    stored, weights = "sandwich" in s.config.extra_norms, s.config.norm_weight
    if not stored:
        yield "sequential", False
    if placement != "pre":
        return
    if stored or not weights:
        yield "sequential", True
    if stored:
        return
    one_norm = "blocks/norm2/scale" not in s.params
    if not weights or not one_norm:
        yield "parallel", False
    if not weights or one_norm:
        yield "parallel_one_norm", False


def _joined(
    s: Subject, form: BlockForm, x: Tensor, y: Tensor, mixed: Tensor, layer: int
) -> tuple[Tensor, Tensor]:
    """The stream after attention, and the input of the MLP."""
    update = _update(s, mixed, layer)
    if form.sandwich:
        update = form.norm(update, s.norm_params("blocks/out_norm1", layer))
    one, two = (s.norm_params(f"blocks/norm{n}", layer) for n in (1, 2))
    if form.residual != "sequential":
        return x + update, y if form.residual == "parallel_one_norm" else form.norm(x, two)
    match form.placement:
        case "post":
            x = form.norm(x + update, one)
            return x, x
        case "output":
            x = x + form.norm(update, one)
            return x, x
        case "residual":
            x = form.norm(y + update, two)
            return x, x
    return x + update, form.norm(x + update, two)


def _after_mlp(
    s: Subject, form: BlockForm, x: Tensor, joined: tuple[Tensor, Tensor], layer: int
) -> Tensor:
    """The stream after block `layer`."""
    stream, z = joined
    if not same(z, mlp_input(s, layer)):
        raise Parted(f"block {layer}", "its MLP does not get what that of block 0 gets")
    update = s.linear("blocks/mlp/down", layer, hidden_layer(s, form.activation, z, layer))
    if form.sandwich:
        update = form.norm(update, s.norm_params("blocks/out_norm2", layer))
    two = s.norm_params("blocks/norm2", layer)
    if form.placement == "post":
        return form.norm(stream + update, two)
    return stream + (form.norm(update, two) if form.placement == "output" else update)

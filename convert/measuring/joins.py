"""Measures how the parts of a block are joined: the places of norms, and the sums."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from .mlp import hidden_layer, mlp_input
from .norm import Norm, measured, same
from .subject import BlockForm, Parted, Subject

Tensor = torch.Tensor
OUT = {"norm1": "out_norm1", "cross_norm": "cross_out_norm", "norm2": "out_norm2"}


class Entrance(NamedTuple):
    """The input of a block's attention, and how it is computed from the stream."""

    y: Tensor
    placements: tuple[str, ...]
    norm: Norm | None  # None if the stream itself is the input


class Place(NamedTuple):
    """The norm of a part of a block, and that of the next part."""

    own: str
    following: str


CROSS_PLACE = Place("cross_norm", "norm2")


def _first_place(s: Subject) -> Place:
    return Place("norm1", "cross_norm" if s.config.cross_attention else "norm2")


def _second_inputs(s: Subject) -> list[Tensor]:
    """Candidates for the input of block 0's second part: cross-attention, or else the MLP."""
    return s.cross_inputs(0) if s.config.cross_attention else [mlp_input(s, 0)]


def update(s: Subject, path: str, mixed: Tensor, layer: int) -> Tensor:
    """The output of the attention at `path`, before any norm of it."""
    if not s.config.attention_out:
        return mixed.flatten(2)
    return s.linear(f"{path}/out", layer, mixed.flatten(2, 3))


def join(
    s: Subject, x: Tensor, entrance: Entrance, mixed: Tensor
) -> tuple[BlockForm, tuple[Tensor, Tensor]]:
    """The form of block 0, and (stream after attention, input of the next part)."""
    own, added = s.norm_params("blocks/norm1", 0), update(s, "blocks/attn", mixed, 0)
    for z in _second_inputs(s):
        for placement in entrance.placements:
            norms = [entrance.norm] if entrance.norm else []
            if placement == "post":
                norms = measured(x + added, z, own, s.config.norm_weight)
            if placement == "output":
                norms = measured(added, z - x, own, s.config.norm_weight)
            for each in norms:
                for residual, sandwich in _orders(s, placement):
                    form = BlockForm(each, placement, residual, sandwich)
                    first = joined(s, form, (x, entrance.y), added, 0)
                    if same(first[1], z):
                        return form, first
    part = "cross-attention" if s.config.cross_attention else "MLP"
    raise Parted(s.block(0), f"no order of norms and sums gives the input of its {part}")


def _orders(s: Subject, placement: str) -> Iterator[tuple[str, bool]]:
    """The residuals that a block may have, each with and without norms of its updates."""
    stored, weights = "sandwich" in s.config.extra_norms, s.config.norm_weight
    if not stored:
        yield "sequential", False
    if placement != "pre":
        return
    if stored or not weights:
        yield "sequential", True
    if stored or s.config.cross_attention:
        return
    one_norm = "blocks/norm2/scale" not in s.params
    if not weights or not one_norm:
        yield "parallel", False
    if not weights or one_norm:
        yield "parallel_one_norm", False


def joined(
    s: Subject,
    form: BlockForm,
    before: tuple[Tensor, Tensor],
    added: Tensor,
    layer: int,
    place: Place | None = None,
) -> tuple[Tensor, Tensor]:
    """The stream after a part that has `added` to it, and the input of the next part.

    `before` is the stream before the part, and its input.
    """
    own, following = place or _first_place(s)
    x, y = before
    if form.sandwich:
        added = form.norm(added, s.norm_params(f"blocks/{OUT[own]}", layer))
    one, two = (s.norm_params(f"blocks/{name}", layer) for name in (own, following))
    if form.residual != "sequential":
        return x + added, y if form.residual == "parallel_one_norm" else form.norm(x, two)
    match form.placement:
        case "post":
            x = form.norm(x + added, one)
            return x, x
        case "output":
            x = x + form.norm(added, one)
            return x, x
        case "residual":
            x = form.norm(y + added, two)
            return x, x
    return x + added, form.norm(x + added, two)


def after_mlp(s: Subject, form: BlockForm, before: tuple[Tensor, Tensor], layer: int) -> Tensor:
    """The stream after block `layer`, whose MLP has the stream and the input `before` it."""
    stream, z = before
    if not same(z, mlp_input(s, layer)):
        raise Parted(s.block(layer), "the input of its MLP is not made like that of block 0")
    added = s.linear("blocks/mlp/down", layer, hidden_layer(s, form.activation, z, layer))
    if form.sandwich:
        added = form.norm(added, s.norm_params("blocks/out_norm2", layer))
    two = s.norm_params("blocks/norm2", layer)
    if form.placement == "post":
        return form.norm(stream + added, two)
    return stream + (form.norm(added, two) if form.placement == "output" else added)

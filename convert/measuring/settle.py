"""Finds the fields that no tensor shows by running the class of a file.

The class runs once on many texts of two tokens, and once on a few long ones, in float64. What it
multiplies with each of its matrices is compared, stage by stage, with what the fields would give;
most fields follow by solving for them. The result is proven afterwards, by `parity`.
"""

import dataclasses
from typing import Any

import torch

from jaxgpt.rotary_scaling import amplitude

from ..foreign.forward import LOG_PROBABILITIES, are_log_probabilities
from . import block, ends
from .attention import Rotation
from .measured_fields import (
    Inexpressible,
    is_backward,
    one_value,
    position_fields,
    scale_fields,
)
from .subject import BlockForm, Parted, Subject, furthest_of
from .windows import windows


@dataclasses.dataclass(frozen=True)
class Settled:
    """The fields of a class, and whether its pairs rotate by minus the angle, by side."""

    fields: dict[str, Any]
    backward: dict[str, bool]  # by prefix of the fields of a side
    notes: list[str] = dataclasses.field(default_factory=list)  # notes for the user
    memory: torch.Tensor | None = None  # the output of an encoder for texts of two tokens


def settle(s: Subject) -> Settled:
    """The fields of the class; raises Parted if no values of the fields give what it computes."""
    problem: Parted | None = None
    for fields, x in ends.entrances(s):
        try:
            return _with_embedding(s, fields, x)
        except Parted as parted:
            problem = furthest_of(problem, parted)
    raise problem or Parted(s.embedding, "no norm of it gives what the class computes")


def _with_embedding(s: Subject, fields: dict[str, Any], x: torch.Tensor) -> Settled:
    """The fields of the class with these `fields` of its embedding, which gives the stream `x`."""
    problem: Parted | None = None
    for first in block.first_blocks(s, x):
        try:
            return _settled(s, dict(fields), *first)
        except Parted as parted:
            problem = furthest_of(problem, parted)
    assert problem is not None  # there is at least one block, or this raises
    raise problem


def _settled(
    s: Subject, fields: dict[str, Any], form: BlockForm, rotation: Rotation, x: torch.Tensor
) -> Settled:
    """The fields of the class with these `fields` of its embedding and this first block.

    The stream after it is `x`.
    """
    table = fields.pop("table")
    rotations = [rotation]
    for layer in range(1, s.config.num_blocks):
        rotation, x = block.next_block(s, form, rotation, x, layer)
        rotations.append(rotation)
    memory, notes = None, []
    if s.decoder is None:
        if are_log_probabilities(s.pairs_of_tokens.logits):
            notes.append(LOG_PROBABILITIES)
        fields |= ends.exit_fields(s, form.norm, x)
    else:
        final, memory = ends.memory_of(s, form.norm, x)
        fields |= final
    try:
        fields |= _attention_fields(s, rotations, table)
    except Inexpressible as error:
        raise Parted(s.block(0), str(error)) from None
    fields |= _form_fields(form)
    if form.sandwich:
        fields["extra_norms"] = ["sandwich", *fields["extra_norms"]]
    fields["window"] = None
    if s.decoder is None:
        fields["window"] = one_value(windows(s, form, rotations))
    elif fields["positions"] == "alibi":
        raise Parted(s.block(0), "its scores fall with the distance, which no encoder's do here")
    return Settled(fields, {s.prefix: is_backward(rotations)}, notes, memory)


def _form_fields(form: BlockForm) -> dict[str, Any]:
    return {
        **form.norm.fields(),
        "norm": form.placement,
        "residual": form.residual,
        "qk_norm": form.qk_norm,
        "activation": form.activation,
    }


def _attention_fields(s: Subject, rotations: list[Rotation], table: str) -> dict[str, Any]:
    kind = s.config.positions if table == "stored" else table
    fields = position_fields(rotations, s.config, kind)
    scaling = fields.get("rotary_scaling")
    scaling = next(filter(None, scaling), None) if isinstance(scaling, list) else scaling
    scales = [rotation.scale / amplitude(scaling) ** 2 for rotation in rotations]
    caps = [rotation.softcap for rotation in rotations]
    if any(cap != caps[0] for cap in caps):
        raise Inexpressible("its layers cap their scores differently")
    return {**fields, **scale_fields(scales, s.config), "attention_softcap": caps[0]}

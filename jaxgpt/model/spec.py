"""Typed specifications of the modules, made from the flat ModelConfig.

A module is built from its own specification and never sees the whole config.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, Literal

from jaxgpt.model.position_spec import Alibi, Learned, Positions, Rotary, Sinusoids, positions_of
from jaxgpt.model_config import ModelConfig


@dataclass(frozen=True)
class Norm:
    """A norm with, if it has them, a scale and a bias."""

    kind: str  # one of those in `norms.NORMALISE`
    eps: float | Literal["dtype"]
    scale: bool
    unit_offset: bool  # multiply by 1 + scale
    bias: bool


@dataclass(frozen=True)
class Scores:
    """How attention scores are made of scaled products of queries and keys, and masked."""

    softcap: float | None = None  # c: scores become c * tanh(score / c)
    slopes: tuple[float, ...] | None = None  # of each query head, times the distance of the key
    window: int | None = None  # the number of last positions that a position attends to


@dataclass(frozen=True)
class Attention:
    """Attention with `heads` query heads and `kv_heads` key and value heads."""

    heads: int
    kv_heads: int
    width: int  # of a head
    scale: float  # the factor of the scores
    scale_by_layer: bool  # divide it by the layer's number, counted from 1
    bias: bool  # of queries, keys and values
    out: Literal["none", "plain", "bias"]  # the projection after attention
    rotary: Rotary | None
    qk_norm: Literal["none", "before_rotary", "after_rotary", "full_width"]
    norm: Norm  # of queries and keys
    scores: tuple[Scores, ...]  # of each layer

    def scale_of(self, layer: Any) -> Any:
        """The factor of the scores in `layer`."""
        return self.scale / (layer + 1) if self.scale_by_layer else self.scale

    @property
    def group(self) -> int:
        """The number of query heads that share a key head and a value head."""
        return self.heads // self.kv_heads


@dataclass(frozen=True)
class Mlp:
    """An MLP with one hidden layer; `gated` multiplies it by a second projection."""

    hidden: int
    activation: str
    gated: bool
    bias: bool


@dataclass(frozen=True)
class Block:
    """A layer of the model; every block of a model has the same specification."""

    placement: Literal["pre", "post", "residual", "output"]  # of the norms
    residual: Literal["sequential", "parallel", "parallel_one_norm"]
    sandwich: bool  # a second norm on the output of each part
    norm: Norm
    attention: Attention
    cross: Attention | None  # to a memory, between the two
    mlp: Mlp
    dropout: float


@dataclass(frozen=True)
class Head:
    """The projection to logits, `tied` to the token embedding or with its own kernel."""

    tied: bool
    bias: bool
    scale: float
    softcap: float | None


@dataclass(frozen=True)
class Spec:
    """The whole model."""

    vocab_size: int
    model_dim: int
    num_blocks: int
    embedding_scale: float
    positions: Positions
    embedding_norm: bool
    block: Block
    final_norm: Literal["applied", "unused", "none"]
    head: Head

    @property
    def position_rows(self) -> int:
        """The number of position vectors among the parameters; 0 where there are none."""
        match self.positions:
            case Learned(rows) | Sinusoids(rows, stored=True):
                return rows
        return 0


@functools.cache
def make_spec(c: ModelConfig) -> Spec:
    """The specification that the flat fields of `c` describe."""
    unbiased = c.norm_kind == "layer" and c.norm_std == "unbiased_plus_eps"
    norm = Norm(
        kind="layer_unbiased" if unbiased else c.norm_kind,
        eps=c.norm_eps,
        scale=c.norm_weight,
        unit_offset=c.norm_unit_offset,
        bias=c.norm_bias,
    )
    positions = positions_of(c)
    attention = _attention(c, positions, norm)
    # No positions are added to the memory, and all of it is seen.
    everywhere = (Scores(c.attention_softcap),) * c.num_blocks
    cross = dataclasses.replace(attention, rotary=None, scores=everywhere)
    return Spec(
        vocab_size=c.vocab_size,
        model_dim=c.model_dim,
        num_blocks=c.num_blocks,
        embedding_scale=c.embedding_scale,
        positions=positions,
        embedding_norm="embedding" in c.extra_norms,
        block=Block(
            placement=c.norm,
            residual=c.residual,
            sandwich="sandwich" in c.extra_norms,
            norm=norm,
            attention=attention,
            cross=cross if c.cross_attention else None,
            mlp=Mlp(c.mlp_dim, c.activation, c.mlp_gated, c.mlp_bias),
            dropout=c.dropout,
        ),
        final_norm=_final_norm(c),
        head=Head(c.tied, c.head_bias, c.logit_scale, c.logit_softcap),
    )


def _attention(c: ModelConfig, positions: Positions, norm: Norm) -> Attention:
    scales = {"head_dim": c.head_dim**-0.5, "model_dim": c.model_dim**-0.5, "none": 1.0}
    scale = c.attention_scale
    slopes = positions.slopes if isinstance(positions, Alibi) else None
    return Attention(
        heads=c.num_heads,
        kv_heads=c.num_kv_heads,
        width=c.head_dim,
        scale=scales[scale] if isinstance(scale, str) else scale,
        scale_by_layer=c.attention_scale_by_layer,
        bias=c.qkv_bias,
        out="none" if not c.attention_out else "bias" if c.attention_out_bias else "plain",
        rotary=positions if isinstance(positions, Rotary) else None,
        qk_norm=c.qk_norm,
        norm=norm,
        scores=tuple(
            Scores(c.attention_softcap, slopes, window) for window in c.by_layer("window")
        ),
    )


def _final_norm(c: ModelConfig) -> Literal["applied", "unused", "none"]:
    if c.final_norm == "unused":
        return "unused"
    return "applied" if c.final_norm else "none"

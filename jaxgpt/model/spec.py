"""What a model computes, as typed cases made from the flat ModelConfig. Modules see only their own case."""

import functools
from dataclasses import dataclass
from typing import Any, Literal

from jaxgpt.config import ModelConfig


@dataclass(frozen=True)
class Learned:
    """A trained table; position 0 is its row `offset`."""

    rows: int
    offset: int


@dataclass(frozen=True)
class Sinusoids:
    """Sines and cosines, computed, or stored among the parameters and never trained."""

    rows: int
    offset: int
    stored: bool


Positions = Learned | Sinusoids


@dataclass(frozen=True)
class Norm:
    """LayerNorm; `bias` says whether it has one beside its scale."""

    bias: bool
    eps: float


@dataclass(frozen=True)
class Attention:
    """Causal attention: `heads` queries, `kv_heads` keys and values, each `width` wide."""

    heads: int
    kv_heads: int
    width: int
    scale: float  # scores are multiplied by it
    scale_by_layer: bool  # and divided by the layer's number, from 1
    bias: bool  # of queries, keys and values
    out: Literal["none", "plain", "bias"]  # the projection after attention

    def scale_of(self, layer: Any) -> Any:
        """What the scores of `layer` are multiplied by."""
        return self.scale / (layer + 1) if self.scale_by_layer else self.scale

    @property
    def group(self) -> int:
        """The number of query heads that share a key and a value."""
        return self.heads // self.kv_heads


@dataclass(frozen=True)
class Mlp:
    hidden: int
    activation: str
    bias: bool


@dataclass(frozen=True)
class Block:
    placement: Literal["pre", "post", "residual"]  # of the norms
    norm: Norm
    attention: Attention
    mlp: Mlp
    dropout: float


@dataclass(frozen=True)
class Head:
    tied: bool
    bias: bool


@dataclass(frozen=True)
class Spec:
    vocab_size: int
    model_dim: int
    num_blocks: int
    positions: Positions
    block: Block
    final_norm: Literal["applied", "unused", "none"]
    head: Head

    @property
    def position_rows(self) -> int:
        """The rows of the table of positions among the parameters; 0 where there is none."""
        match self.positions:
            case Sinusoids(stored=False):
                return 0
            case positions:
                return positions.rows


@functools.cache
def make_spec(c: ModelConfig) -> Spec:
    """The cases that the flat fields of a ModelConfig stand for."""
    norm = Norm(c.norm_bias, c.norm_eps)
    scales = {"head_dim": c.head_dim, "model_dim": c.model_dim, "none": 1}
    attention = Attention(
        heads=c.num_heads,
        kv_heads=c.num_heads,
        width=c.head_dim,
        scale=scales[c.attention_scale] ** -0.5,
        scale_by_layer=c.attention_scale_by_layer,
        bias=c.qkv_bias,
        out="none" if not c.attention_out else "bias" if c.attention_out_bias else "plain",
    )
    mlp = Mlp(c.mlp_dim, c.activation, c.mlp_bias)
    return Spec(
        vocab_size=c.vocab_size,
        model_dim=c.model_dim,
        num_blocks=c.num_blocks,
        positions=_positions(c),
        block=Block(c.norm, norm, attention, mlp, c.dropout),
        final_norm=_final_norm(c),
        head=Head(c.tied, c.head_bias),
    )


def _final_norm(c: ModelConfig) -> Literal["applied", "unused", "none"]:
    if c.final_norm == "unused":
        return "unused"
    return "applied" if c.final_norm else "none"


def _positions(c: ModelConfig) -> Positions:
    rows = c.context_length + c.positions_offset
    if c.positions == "learned":
        return Learned(rows, c.positions_offset)
    return Sinusoids(rows, c.positions_offset, c.positions_stored)

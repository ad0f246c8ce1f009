"""Typed specifications of the modules, made from the flat ModelConfig.

Each module sees only its own.
"""

import functools
from dataclasses import dataclass
from typing import Any, Literal

from jaxgpt.config import ModelConfig


@dataclass(frozen=True)
class Learned:
    """A trained table of position vectors; position 0 is its row `offset`."""

    rows: int
    offset: int


@dataclass(frozen=True)
class Sinusoids:
    """Sines and cosines, computed, or `stored` among the parameters and never trained."""

    rows: int
    offset: int
    stored: bool


Positions = Learned | Sinusoids


@dataclass(frozen=True)
class Norm:
    """LayerNorm with a scale and, if `bias`, a bias."""

    bias: bool
    eps: float


@dataclass(frozen=True)
class Attention:
    """Causal attention with `heads` query heads and `kv_heads` key and value heads."""

    heads: int
    kv_heads: int
    width: int  # of a head
    scale: float  # the factor of the scores
    scale_by_layer: bool  # divide it by the layer's number, counted from 1
    bias: bool  # of queries, keys and values
    out: Literal["none", "plain", "bias"]  # the projection after attention

    def scale_of(self, layer: Any) -> Any:
        """The factor of the scores in `layer`."""
        return self.scale / (layer + 1) if self.scale_by_layer else self.scale

    @property
    def group(self) -> int:
        """The number of query heads that share a key head and a value head."""
        return self.heads // self.kv_heads


@dataclass(frozen=True)
class Mlp:
    """An MLP with one hidden layer."""

    hidden: int
    activation: str
    bias: bool


@dataclass(frozen=True)
class Block:
    """A layer of the model; every block of a model has the same specification."""

    placement: Literal["pre", "post", "residual"]  # of the norms
    norm: Norm
    attention: Attention
    mlp: Mlp
    dropout: float


@dataclass(frozen=True)
class Head:
    """The projection to logits, `tied` to the token embedding or with its own kernel."""

    tied: bool
    bias: bool


@dataclass(frozen=True)
class Spec:
    """The whole model."""

    vocab_size: int
    model_dim: int
    num_blocks: int
    positions: Positions
    block: Block
    final_norm: Literal["applied", "unused", "none"]
    head: Head

    @property
    def position_rows(self) -> int:
        """The number of position vectors among the parameters; 0 where they are computed."""
        match self.positions:
            case Sinusoids(stored=False):
                return 0
            case positions:
                return positions.rows


@functools.cache
def make_spec(c: ModelConfig) -> Spec:
    """The specification that the flat fields of `c` describe."""
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

"""The fields of a model, each with its default and a sentence of help."""

from dataclasses import dataclass
from typing import Any, Literal

from jaxgpt.errors import (
    divisors,
    require,
    require_below_one,
    require_not_negative,
    require_positive,
)
from jaxgpt.fields import FrozenList, explained, frozen, require_choices, setting, suggesting
from jaxgpt.model_rules import require_possible

MOST_BLOCKS = 10_000  # fields that may differ by block are written out for each of them


@suggesting
@explained
@dataclass(frozen=True)
class ModelConfig:
    """The function that a GPT computes; every difference between real checkpoints has a field.

    A field that may differ by block takes a list with a value for each.
    """

    vocab_size: int = setting(
        0, "Number of token ids; 0 in a training config takes the tokenizer's."
    )
    context_length: int = setting(128, "Number of tokens that the model sees at once.")
    model_dim: int = setting(252, "Width of the residual stream, and of the embeddings.")
    num_blocks: int = setting(6, "Number of Transformer blocks.")
    num_heads: int = setting(6, "Number of attention heads in each block.")
    head_dim: int = setting(0, "Width of one head; 0 is model_dim / num_heads.")
    mlp_dim: int = setting(
        0,
        "Width of the hidden layer of each MLP; 0 is 4 * model_dim, or 8/3 of it if mlp_gated, "
        "rounded up to a multiple of 8.",
    )
    norm: Literal["pre", "post", "residual", "output"] = setting(
        "pre",
        "Place of the norms: before each part (pre), after each sum (post), on the residual stream "
        "itself before each part (residual), or on the output of each part (output).",
    )
    final_norm: bool | Literal["unused"] = setting(
        True, "Whether a norm precedes the head; unused: the file has one that is never applied."
    )
    activation: Literal["relu", "gelu", "gelu_tanh", "silu", "relu2"] = setting(
        "relu",
        "Activation of the MLPs; gelu is the exact one, gelu_tanh its approximation, relu2 the "
        "square of relu.",
    )
    attention_scale: Literal["head_dim", "model_dim", "none"] | float = setting(
        "head_dim",
        "Width whose square root divides the attention scores; none leaves them as they are, a "
        "number multiplies them.",
    )
    attention_scale_by_layer: bool = setting(
        False, "Whether scores are divided by layer + 1 as well."
    )
    positions: Literal["learned", "sinusoidal", "rotary", "alibi", "none"] = setting(
        "learned",
        "Encoding of positions: a learned table, fixed sinusoids, rotated queries and keys, biases "
        "of the scores (alibi), or none.",
    )
    positions_stored: bool = setting(
        False, "Whether sinusoids are stored in the file, as a table that is never trained."
    )
    positions_offset: int = setting(
        0, "Rows of the position table before that of position 0, as OPT has."
    )
    qkv_bias: bool = setting(False, "Whether queries, keys and values have a bias.")
    attention_out: bool = setting(True, "Whether the heads' outputs go through a projection.")
    attention_out_bias: bool = setting(True, "Whether that projection has a bias.")
    mlp_bias: bool = setting(True, "Whether all layers of the MLPs have a bias.")
    head_bias: bool = setting(True, "Whether the head, which gives the logits, has a bias.")
    norm_bias: bool = setting(True, "Whether norms have a bias in addition to their scale.")
    norm_eps: float | Literal["dtype"] = setting(
        1e-5, "Number that norms add to the variance; dtype is the machine epsilon, at most 1.2e-7."
    )
    tied: bool = setting(False, "Whether the head's matrix is the token embedding.")
    dropout: float = setting(0.2, "Probability with which training drops an activation.")
    num_kv_heads: int = setting(
        0, "Number of key and value heads, each shared by a group of queries; 0 is num_heads."
    )
    norm_kind: Literal["layer", "rms"] = setting(
        "layer", "Kind of the norms: LayerNorm, or RMSNorm, which does not subtract the mean."
    )
    norm_std: Literal["biased", "unbiased_plus_eps"] = setting(
        "biased",
        "What a LayerNorm divides by: the root of variance plus norm_eps (biased), or norm_eps "
        "plus the standard deviation of n - 1.",
    )
    norm_weight: bool = setting(True, "Whether norms have a scale at all.")
    norm_unit_offset: bool = setting(False, "Whether norms multiply by 1 + their scale.")
    extra_norms: list[str] = setting(
        FrozenList(),
        "Further norms, as a list: sandwich, on the output of each part; embedding, after the "
        "embeddings.",
    )
    qk_norm: Literal["none", "before_rotary", "after_rotary", "full_width"] = setting(
        "none",
        "Norms of queries and keys: of each head, before or after it is rotated, or of all heads "
        "together.",
    )
    residual: Literal["sequential", "parallel", "parallel_one_norm"] = setting(
        "sequential",
        "Order of attention and MLP: one after the other, or both on the same stream, with a norm "
        "each or one for both.",
    )
    mlp_gated: bool = setting(
        False, "Whether the MLPs multiply the activation by a second projection, as SwiGLU does."
    )
    rotary_theta: float | list[float | None] = setting(
        10000.0, "Base of the rotary wavelengths; none in a list: that block rotates nothing."
    )
    rotary_fraction: float = setting(1.0, "Fraction of each head that rotary positions rotate.")
    rotary_layout: Literal["half", "interleaved"] = setting(
        "half",
        "Elements that rotate together in the original file: those half a width apart, or "
        "neighbours. Parameters here always have the first.",
    )
    qkv_order: Literal[
        "by_part", "by_head", "kqv_by_part", "kqv_by_head", "kvq_by_part", "kvq_by_head",
        "qvk_by_part", "qvk_by_head", "vkq_by_part", "vkq_by_head", "vqk_by_part", "vqk_by_head",
    ] = setting(
        "by_part",
        "Order within a fused matrix of queries, keys and values in the original file: all queries "
        "first, or the three parts of each head together; kqv and the like where queries, keys and "
        "values follow in another order. Parameters here always have one order.",
    )  # fmt: skip
    gate_order: Literal["gate_up", "up_gate"] = setting(
        "gate_up",
        "Order within a fused matrix of gate and up in the original file. Parameters here always "
        "have the gate first.",
    )
    rotary_scaling: dict[str, Any] | list[dict[str, Any] | None] | None = setting(
        None, "Stretched rotary wavelengths, as rope_type (linear, llama3 or yarn) and its numbers."
    )
    sinusoidal_layout: Literal["interleaved", "half"] = setting(
        "interleaved", "Order of sinusoids: sines and cosines in turn, or all sines first."
    )
    window: int | list[int | None] | None = setting(
        None, "Number of last positions that a position attends to, itself included; none is all."
    )
    embedding_scale: float = setting(1.0, "Factor of the token embeddings.")
    attention_softcap: float | None = setting(
        None, "Bound c of the attention scores, which become c * tanh(score / c)."
    )
    logit_scale: float = setting(1.0, "Factor of the logits.")
    logit_softcap: float | None = setting(
        None, "Bound c of the logits, which become c * tanh(logit / c)."
    )
    cross_attention: bool = setting(
        False,
        "Whether each block attends to a memory, such as an encoder's output, before its MLP.",
    )
    shares_embedding: bool = setting(
        False, "Whether an encoder has the decoder's token embedding instead of its own."
    )

    def __post_init__(self) -> None:
        for field in ("extra_norms", "rotary_theta", "rotary_scaling", "window"):
            object.__setattr__(self, field, frozen(getattr(self, field)))
        require_choices(self)
        self._require_sizes()
        if not self.attention_out:  # a bias belongs to the projection
            object.__setattr__(self, "attention_out_bias", False)
        require_possible(self)

    def by_layer(self, field: str) -> list[Any]:
        """The value of `field` in each block; a field that is no list has one value for all."""
        value = getattr(self, field)
        return value if isinstance(value, list) else [value] * self.num_blocks

    @property
    def position_rows(self) -> int:
        """Rows of the position table among the parameters; 0 if there is none."""
        stored = self.positions == "learned" or self.positions_stored
        return self.context_length + self.positions_offset if stored else 0

    @property
    def rotary_dim(self) -> int:
        """The number of elements of each head that rotary positions rotate."""
        return round(self.rotary_fraction * self.head_dim)

    def _require_sizes(self) -> None:
        require_not_negative(self, "vocab_size", "positions_offset")
        require_below_one(self, "dropout")
        require_positive(self, "context_length", "model_dim", "num_blocks", "num_heads")
        require(
            self.num_blocks <= MOST_BLOCKS,
            f"num_blocks must be at most {MOST_BLOCKS:,}, but is {self.num_blocks}.",
        )
        if not self.head_dim:
            require(
                self.model_dim % self.num_heads == 0,
                f"model_dim {self.model_dim} does not divide into num_heads {self.num_heads}; "
                f"head counts that fit are {divisors(self.model_dim)}, or set head_dim.",
            )
            object.__setattr__(self, "head_dim", self.model_dim // self.num_heads)
        if not self.mlp_dim:
            usual = 8 * -(-self.model_dim // 3) if self.mlp_gated else 4 * self.model_dim
            object.__setattr__(self, "mlp_dim", usual)
        if not self.num_kv_heads:
            object.__setattr__(self, "num_kv_heads", self.num_heads)
        require_positive(self, "head_dim", "mlp_dim", "num_kv_heads")
        require(
            self.num_heads % self.num_kv_heads == 0,
            f"num_heads {self.num_heads} does not divide into num_kv_heads {self.num_kv_heads}; "
            f"counts of key and value heads that fit are {divisors(self.num_heads)}.",
        )
        for field in ("rotary_theta", "rotary_scaling", "window"):
            value = getattr(self, field)
            require(
                not isinstance(value, list) or len(value) == self.num_blocks,
                f"{field} has {len(value) if isinstance(value, list) else 1} values, but "
                f"num_blocks is {self.num_blocks}.",
            )

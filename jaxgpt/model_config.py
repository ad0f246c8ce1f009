"""The fields of a model, each with its default and a sentence of help."""

from dataclasses import dataclass
from typing import Literal

from jaxgpt.errors import (
    divisors,
    require,
    require_below_one,
    require_not_negative,
    require_positive,
)
from jaxgpt.fields import explained, require_choices, setting, suggesting


@suggesting
@explained
@dataclass(frozen=True)
class ModelConfig:
    """The function that a GPT computes; every difference between real checkpoints has a field."""

    vocab_size: int = setting(
        0, "Number of token ids; 0 in a training config takes the tokenizer's."
    )
    context_length: int = setting(128, "Number of tokens that the model sees at once.")
    model_dim: int = setting(252, "Width of the residual stream, and of the embeddings.")
    num_blocks: int = setting(6, "Number of Transformer blocks.")
    num_heads: int = setting(6, "Number of attention heads in each block.")
    head_dim: int = setting(0, "Width of one head; 0 is model_dim / num_heads.")
    mlp_dim: int = setting(0, "Width of the hidden layer of each MLP; 0 is 4 * model_dim.")
    norm: Literal["pre", "post", "residual"] = setting(
        "pre",
        "Norms before each part (pre), after each sum (post), or before it and as the residual.",
    )
    final_norm: bool | Literal["unused"] = setting(
        True, "Whether a norm precedes the head; unused: the file has one that is never applied."
    )
    activation: Literal["relu", "gelu", "gelu_tanh"] = setting(
        "relu", "Activation of the MLPs; gelu is the exact one, gelu_tanh its approximation."
    )
    attention_scale: Literal["head_dim", "model_dim", "none"] = setting(
        "head_dim",
        "Width whose square root divides the attention scores; none leaves them as they are.",
    )
    attention_scale_by_layer: bool = setting(
        False, "Whether scores are divided by layer + 1 as well."
    )
    positions: Literal["learned", "sinusoidal"] = setting(
        "learned", "Encoding of positions: a learned table, or fixed sinusoids."
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
    mlp_bias: bool = setting(True, "Whether both layers of the MLPs have a bias.")
    head_bias: bool = setting(True, "Whether the head, which gives the logits, has a bias.")
    norm_bias: bool = setting(True, "Whether norms have a bias in addition to their scale.")
    norm_eps: float = setting(1e-5, "Number that norms add to the variance.")
    tied: bool = setting(False, "Whether the head's matrix is the token embedding.")
    dropout: float = setting(0.2, "Probability with which training drops an activation.")

    def __post_init__(self) -> None:
        require_choices(self)
        require(
            self.final_norm in (True, False, "unused"),
            f"final_norm takes true, false or 'unused', but got {self.final_norm!r}.",
        )
        require_not_negative(self, "vocab_size", "positions_offset")
        require_below_one(self, "dropout")
        require_positive(self, "context_length", "model_dim", "num_blocks", "num_heads", "norm_eps")
        if not self.head_dim:
            require(
                self.model_dim % self.num_heads == 0,
                f"model_dim {self.model_dim} does not divide into num_heads {self.num_heads}; "
                f"head counts that fit are {divisors(self.model_dim)}, or set head_dim.",
            )
            object.__setattr__(self, "head_dim", self.model_dim // self.num_heads)
        if not self.mlp_dim:
            object.__setattr__(self, "mlp_dim", 4 * self.model_dim)
        require_positive(self, "head_dim", "mlp_dim")
        require(
            self.positions == "sinusoidal" or not self.positions_stored,
            "positions_stored is for sinusoidal positions: learned ones are always in the file.",
        )
        require(
            not self.positions_offset or bool(self.position_rows),
            f"positions_offset is {self.positions_offset}, but there is no table for it: set "
            "positions_stored, or positions to learned.",
        )
        heads = self.num_heads * self.head_dim
        require(
            self.attention_out or heads == self.model_dim,
            f"without attention_out the heads' joint width {self.num_heads} * {self.head_dim} = "
            f"{heads} must be model_dim {self.model_dim}.",
        )
        if not self.attention_out:  # a bias belongs to the projection
            object.__setattr__(self, "attention_out_bias", False)

    @property
    def position_rows(self) -> int:
        """Rows of the position table among the parameters; 0 if it is computed."""
        stored = self.positions == "learned" or self.positions_stored
        return self.context_length + self.positions_offset if stored else 0

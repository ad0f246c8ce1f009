"""Hugging Face's Starcoder2: attention as in Llama, LayerNorm, and an MLP of two matrices."""

from ..names.idioms import Biases, Window
from ..names.rope_idioms import Rope
from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.hub import Hub
from ..rows.kinds import linear
from . import llama

CLASS = {**USUAL, "positions": "rotary", "activation": "gelu_tanh"}

DIALECTS = (
    Dialect(
        name="starcoder2",
        about="Hugging Face's Starcoder2ForCausalLM",
        rows=(
            llama.EMBEDDING,
            *llama.attention("?", "?"),
            *linear("blocks/mlp/up : layer d f", f"{llama.BLOCK}.mlp.c_fc : f d", "?"),
            *linear("blocks/mlp/down : layer f d", f"{llama.BLOCK}.mlp.c_proj : d f", "?"),
            *llama.norms(""),
            llama.HEAD,
        ),
        words=llama.NAMES,
        unsaid=CLASS,
        says=llama.kind("starcoder2", CLASS, ties=True),
        grouped=True,
        layout="half",
        hub=Hub(
            "Starcoder2ForCausalLM",
            f"{llama.SIZES} num_key_value_heads head_dim intermediate_size hidden_act norm_epsilon",
            {"residual_dropout": "attention_dropout", "embedding_dropout": "attention_dropout"},
            idioms=(
                Rope(),
                Window(),
                Biases("use_bias", "qkv_bias attention_out_bias mlp_bias", usual=True),
            ),
        ),
    ),
)

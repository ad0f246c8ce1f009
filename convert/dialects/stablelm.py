"""Hugging Face's StableLM: a Llama with LayerNorm, which rotates a quarter of each head."""

from ..names.idioms import Biases
from ..names.rope_idioms import Rope
from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.hub import Hub
from ..rows.kinds import norm
from . import llama

CLASS = {**USUAL, "positions": "rotary", "activation": "silu", "rotary_fraction": 0.25}

DIALECTS = (
    Dialect(
        name="stablelm",
        about="Hugging Face's StableLmForCausalLM",
        rows=(
            llama.EMBEDDING,
            *llama.attention("?"),
            *llama.gated(),
            *norm("blocks/norm1", f"{llama.BLOCK}.input_layernorm"),
            *norm("blocks/norm2", f"{llama.BLOCK}.post_attention_layernorm", absent="?"),
            *norm("final_norm", "(model.|)norm"),
            llama.HEAD,
        ),
        words=llama.NAMES,
        unsaid=CLASS,
        says={
            **llama.kind("stablelm", CLASS),
            "use_parallel_residual": {
                False: {"residual": "sequential"},
                True: {"residual": "parallel_one_norm"},
            },
        },
        grouped=True,
        layout="half",
        hub=Hub(
            "StableLmForCausalLM",
            f"{llama.SIZES} num_key_value_heads intermediate_size hidden_act layer_norm_eps "
            "use_parallel_residual",
            {"hidden_dropout": "attention_dropout"},
            idioms=(Rope(fraction=0.25), Biases("use_qkv_bias", "qkv_bias")),
            refused={"qk_layernorm": "norms q and k with weights of their own for each head"},
        ),
    ),
)

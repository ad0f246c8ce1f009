"""Hugging Face's Llama, and the classes with its tensor names."""

from ..rows.dialect import Dialect
from ..rows.fields import MODERN
from ..rows.kinds import linear, norm, row, tied

BLOCK = "(model.|)layers.{layer}"

DIALECTS = (
    Dialect(
        name="llama",
        about="Hugging Face's LlamaForCausalLM",
        rows=(
            row("token_embedding/embedding : v d", "(model.|)embed_tokens.weight : v d"),
            *linear(
                "blocks/attn/qkv : layer d head qkv k",
                f"{BLOCK}.self_attn.{{qkv}} : (head k) d",
                "?",
            ),
            *linear(
                "blocks/attn/out : layer head k d", f"{BLOCK}.self_attn.o_proj : d (head k)", "?"
            ),
            *linear("blocks/mlp/gate_up : layer d glu f", f"{BLOCK}.mlp.{{glu}} : f d", "?"),
            *linear("blocks/mlp/down : layer f d", f"{BLOCK}.mlp.down_proj : d f", "?"),
            *norm("blocks/norm1", f"{BLOCK}.input_layernorm", "no"),
            *norm("blocks/norm2", f"{BLOCK}.post_attention_layernorm", "no"),
            *norm("final_norm", "(model.|)norm", "no"),
            tied("lm_head.weight : v d"),
        ),
        words={"qkv": ("q_proj k_proj v_proj",), "glu": ("gate_proj up_proj",)},
        unsaid={**MODERN, "norm_eps": 1e-6},
        grouped=True,
        layout="half",
    ),
)

"""picotron's Llama."""

from ..rows.dialect import Container, Dialect
from ..rows.fields import MODERN
from ..rows.kinds import linear, norm, row, tied

BLOCK = "decoder_layers.{layer}"

DIALECTS = (
    Dialect(
        name="picotron",
        about="picotron's Llama",
        rows=(
            row("token_embedding/embedding : v d", "embedding.weight : v d"),
            *norm("blocks/norm1", f"{BLOCK}.input_layernorm", "no"),
            *norm("blocks/norm2", f"{BLOCK}.post_attention_layernorm", "no"),
            *linear(
                "blocks/attn/qkv : layer d head qkv k",
                f"{BLOCK}.attention.{{qkv}} : (head k) d",
                "no",
            ),
            *linear(
                "blocks/attn/out : layer head k d", f"{BLOCK}.attention.out_proj : d (head k)", "no"
            ),
            *linear("blocks/mlp/gate_up : layer d glu f", f"{BLOCK}.mlp.{{glu}} : f d", "no"),
            *linear("blocks/mlp/down : layer f d", f"{BLOCK}.mlp.down_proj : d f", "no"),
            tied("final_proj.weight : v d"),
            *norm("final_norm", "final_norm", "no"),
        ),
        words={"qkv": ("q_proj k_proj v_proj",), "glu": ("up_proj gate_proj",)},
        unsaid={**MODERN, "rotary_theta": 500000.0},
        grouped=True,
        layout="half",
        container=Container("model", "optimizer", step="trained_steps"),
    ),
)

"""NeetCode's Code GPT, with one module for each head and no projection after attention."""

from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.kinds import embeddings, linear, norm, row

BLOCK = "transformer_blocks.{layer}"

DIALECTS = (
    Dialect(
        name="neetcode",
        about="NeetCode's Code GPT, which has no projection after attention",
        rows=(
            *embeddings("word_embeddings", "position_embeddings.weight"),
            row(
                "blocks/attn/qkv/kernel : layer d head qkv k",
                f"{BLOCK}.attention.att_heads.{{head}}.{{qkv}}_gen.weight : k d",
            ),
            *linear("blocks/mlp/up : layer d f", f"{BLOCK}.linear_network.up_projection : f d"),
            *linear("blocks/mlp/down : layer f d", f"{BLOCK}.linear_network.down_projection : d f"),
            *norm("blocks/norm1", f"{BLOCK}.first_norm"),
            *norm("blocks/norm2", f"{BLOCK}.second_norm"),
            *norm("final_norm", "final_norm"),
            *linear("head : d v", "vocab_projection : v d"),
        ),
        words={"qkv": ("key query value",)},
        unsaid={**USUAL, "dropout": 0.2},
    ),
)

"""The lyric generator's GPT, with one module for each head.

GPT(vocab_size, context_length, model_dim, num_blocks, num_heads)
"""

from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.kinds import linear, norm, row

BLOCK = "transformer_blocks.{layer}"

DIALECTS = (
    Dialect(
        name="gpt",
        about="the lyric generator, "
        "GPT(vocab_size, context_length, model_dim, num_blocks, num_heads)",
        rows=(
            row("token_embedding/embedding : v d", "token_embedding.weight : v d"),
            row("pos_embedding/embedding : t d", "pos_embedding.weight : t d"),
            row(
                "blocks/attn/qkv/kernel : layer d head qkv k",
                f"{BLOCK}.mhsa.attention_heads.{{head}}.{{qkv}}_layer.weight : k d",
            ),
            *linear("blocks/attn/out : layer head k d", f"{BLOCK}.mhsa.compute : d (head k)"),
            *linear("blocks/mlp/up : layer d f", f"{BLOCK}.vanilla_nn.first_linear_layer : f d"),
            *linear("blocks/mlp/down : layer f d", f"{BLOCK}.vanilla_nn.second_linear_layer : d f"),
            *norm("blocks/norm1", f"{BLOCK}.layer_norm_one"),
            *norm("blocks/norm2", f"{BLOCK}.layer_norm_two"),
            *norm("final_norm", "layer_norm_three"),
            *linear("head : d v", "vocab_projection : v d"),
        ),
        words={"qkv": ("key query value",)},
        unsaid={**USUAL, "dropout": 0.2},
        own=f"{__package__.removesuffix('.dialects')}.reference:GPT",
    ),
)

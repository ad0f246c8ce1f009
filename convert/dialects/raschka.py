"""The GPTModel of Sebastian Raschka's book.

Its norms have `scale` and `shift`; its mask has ones where attention is blocked.
"""

from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.kinds import embeddings, linear, mask, norm, tied

BLOCK = "trf_blocks.{layer}"

DIALECTS = (
    Dialect(
        name="raschka",
        about="GPTModel of the book Build a Large Language Model (From Scratch)",
        rows=(
            *embeddings("tok_emb", "pos_emb.weight"),
            mask(f"{BLOCK}.att.mask : t t", "upper"),
            *linear(
                "blocks/attn/qkv : layer d head qkv k", f"{BLOCK}.att.{{qkv}} : (head k) d", "?"
            ),
            *linear("blocks/attn/out : layer head k d", f"{BLOCK}.att.out_proj : d (head k)", "?"),
            *linear("blocks/mlp/up : layer d f", f"{BLOCK}.ff.layers.0 : f d"),
            *linear("blocks/mlp/down : layer f d", f"{BLOCK}.ff.layers.2 : d f"),
            *norm("blocks/norm1", f"{BLOCK}.norm1", words="scale shift"),
            *norm("blocks/norm2", f"{BLOCK}.norm2", words="scale shift"),
            *norm("final_norm", "final_norm", words="scale shift"),
            tied("out_head.weight : v d"),
        ),
        words={"qkv": ("W_query W_key W_value",)},
        unsaid={**USUAL, "activation": "gelu_tanh", "dropout": 0.1},
    ),
)

"""minGPT before 2022: the position table is a bare parameter, and the head is not tied."""

from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.kinds import linear, mask, norm, row, tied

BLOCK = "blocks.{layer}"

DIALECTS = (
    Dialect(
        name="mingpt-2020",
        about="minGPT's GPT, before 2022",
        rows=(
            row("pos_embedding/embedding : t d", "pos_emb : () t d"),
            row("token_embedding/embedding : v d", "tok_emb.weight : v d"),
            *norm("blocks/norm1", f"{BLOCK}.ln1"),
            *norm("blocks/norm2", f"{BLOCK}.ln2"),
            *linear(
                "blocks/attn/qkv : layer d head qkv k", f"{BLOCK}.attn.{{qkv}} : (head k) d", "?"
            ),
            mask(f"{BLOCK}.attn.mask : () () t t"),
            *linear("blocks/attn/out : layer head k d", f"{BLOCK}.attn.proj : d (head k)"),
            *linear("blocks/mlp/up : layer d f", f"{BLOCK}.mlp.0 : f d"),
            *linear("blocks/mlp/down : layer f d", f"{BLOCK}.mlp.2 : d f"),
            *norm("final_norm", "ln_f"),
            tied("head.weight : v d"),
        ),
        words={"qkv": ("key query value",)},
        unsaid={**USUAL, "activation": "gelu", "dropout": 0.1},
    ),
)

"""Queries, keys and values by one matrix each, all heads together."""

from convert import words
from convert.rows import USUAL, Dialect, linear

BLOCK = words.block("blocks")
INSIDE = f"{BLOCK}.{words.choice(words.ATTENTION, 'attn')}"

DIALECTS = (
    Dialect(
        name="separate",
        about="decoders with a matrix each for queries, keys and values",
        rows=(
            *words.embeddings("token_embedding", "position_embedding"),
            *linear("blocks/attn/qkv : layer d head qkv k", f"{INSIDE}.{{qkv}} : (head k) d", "?"),
            *words.out(BLOCK, "attn", "out_proj"),
            *words.mlp(BLOCK, "ffn", "net.0", "net.2"),
            *words.norms(BLOCK, "ln1", "ln2", "ln_f"),
            *words.head("head"),
            *words.masks(BLOCK, "attn"),
        ),
        qkv=words.QKV,
        unsaid={**USUAL, "activation": "gelu"},
        beware=f"the heads are taken to lie one after the other in each matrix; {words.BEWARE}",
        family=True,
    ),
)

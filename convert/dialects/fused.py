"""Queries, keys and values by one matrix, one third each."""

from convert import words
from convert.rows import USUAL, Dialect, linear

BLOCK = words.block("blocks")
INSIDE = f"{BLOCK}.{words.choice(words.ATTENTION, 'attn')}.{words.choice(words.FUSED, 'qkv')}"

DIALECTS = (
    Dialect(
        name="fused",
        about="decoders with one matrix for queries, keys and values, in this order",
        rows=(
            *words.embeddings("token_embedding", "position_embedding"),
            *linear("blocks/attn/qkv : layer d head qkv k", f"{INSIDE} : (qkv head k) d", "?"),
            *words.out(BLOCK, "attn", "proj"),
            *words.mlp(BLOCK, "ff", "net.0", "net.2"),
            *words.norms(BLOCK, "ln1", "ln2", "ln_f"),
            *words.head("head"),
            *words.masks(BLOCK, "attn"),
        ),
        unsaid={**USUAL, "activation": "gelu"},
        family=True,
        beware=f"queries, keys and values are taken for thirds in this order, the heads inside each; {words.BEWARE}",
    ),
)

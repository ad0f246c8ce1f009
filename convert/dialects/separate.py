"""Decoders with one matrix each for queries, keys and values, all heads together."""

from ..names import parts
from ..names.modern_parts import rotary, with_norms
from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.kinds import linear

BLOCK = parts.block("blocks")
INSIDE = f"{BLOCK}.{parts.choice(parts.ATTENTION, 'attn')}"

FAMILY = Dialect(
    name="separate",
    about="decoders with a matrix each for queries, keys and values",
    rows=(
        *parts.embeddings("token_embedding", "position_embedding"),
        *linear("blocks/attn/qkv : layer d head qkv k", f"{INSIDE}.{{qkv}} : (head k) d", "?"),
        *parts.out(BLOCK, "attn", "out_proj"),
        *parts.mlp(BLOCK, "ffn", "net.0", "net.2"),
        *parts.norms(BLOCK, "ln1", "ln2", "ln_f"),
        *parts.head("head"),
        *parts.masks(BLOCK, "attn"),
        *rotary(BLOCK, "attn"),
    ),
    words={"qkv": parts.QKV},
    unsaid={**USUAL, "activation": "gelu"},
    beware=f"the heads are taken to lie one after the other in each matrix; {parts.BEWARE}",
    family=True,
    grouped=True,
)

DIALECTS = (with_norms(FAMILY, INSIDE, BLOCK, "ffn"),)

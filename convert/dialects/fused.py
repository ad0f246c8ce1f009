"""Decoders with one fused matrix for queries, keys and values, one third each."""

from ..names import parts
from ..names.modern_parts import rotary, with_norms
from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.kinds import linear

BLOCK = parts.block("blocks")
ATTENTION = f"{BLOCK}.{parts.choice(parts.ATTENTION, 'attn')}"
INSIDE = f"{ATTENTION}.{parts.choice(parts.FUSED, 'qkv')}"

FAMILY = Dialect(
    name="fused",
    about="decoders with one matrix for queries, keys and values, in this order",
    rows=(
        *parts.embeddings("token_embedding", "position_embedding"),
        *linear("blocks/attn/qkv : layer d head qkv k", f"{INSIDE} : (qkv head k) d", "?"),
        *parts.out(BLOCK, "attn", "proj"),
        *parts.mlp(BLOCK, "ff", "net.0", "net.2"),
        *parts.norms(BLOCK, "ln1", "ln2", "ln_f"),
        *parts.head("head"),
        *parts.masks(BLOCK, "attn"),
        *rotary(BLOCK, "attn"),
    ),
    unsaid={**USUAL, "activation": "gelu"},
    grouped=True,
    family=True,
    beware="queries, keys and values are taken for thirds in this order, the heads inside "
    f"each; {parts.BEWARE}",
)

DIALECTS = (with_norms(FAMILY, ATTENTION, BLOCK, "ff"),)

"""Decoders with one matrix for queries, keys and values, or with one for keys and values."""

from ..names import attention_parts, parts
from ..names.modern_parts import tables
from ..names.norm_parts import with_all_norms
from ..rows.dialect import Dialect
from ..rows.fields import USUAL

BLOCK = parts.block("blocks")
INSIDE = attention_parts.inside_attention(BLOCK, "attn")

FAMILY = Dialect(
    name="fused",
    about="decoders with one matrix for queries, keys and values, or for keys and values",
    rows=(
        *parts.embeddings("token_embedding", "position_embedding"),
        *attention_parts.fused("blocks/attn", INSIDE),
        *attention_parts.in_two("blocks/attn", INSIDE),
        *attention_parts.out(BLOCK, "attn", "proj"),
        *parts.mlp(BLOCK, "ff", "net.0", "net.2"),
        *parts.norms(BLOCK, "ln1", "ln2", "ln_f"),
        *parts.head("head"),
        *attention_parts.masks(BLOCK, "attn"),
        *attention_parts.caches(INSIDE),
        *tables(BLOCK, "attn"),
    ),
    unsaid={**USUAL, "activation": "gelu", "qkv_order": "by_part"},
    grouped=True,
    family=True,
    beware=parts.BEWARE,
)

DIALECTS = (with_all_norms(FAMILY, {"blocks/attn": INSIDE}, BLOCK, "ff"),)

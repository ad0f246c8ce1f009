"""Decoders with one matrix each for queries, keys and values, all heads together."""

from ..names import attention_parts, parts
from ..names.modern_parts import tables
from ..names.norm_parts import with_all_norms
from ..rows.dialect import Dialect
from ..rows.fields import USUAL

BLOCK = parts.block("blocks")
INSIDE = attention_parts.inside_attention(BLOCK, "attn")

FAMILY = Dialect(
    name="separate",
    about="decoders with a matrix each for queries, keys and values",
    rows=(
        *parts.embeddings("token_embedding", "position_embedding"),
        *attention_parts.separate("blocks/attn", INSIDE),
        *attention_parts.out(BLOCK, "attn", "out_proj"),
        *parts.mlp(BLOCK, "ffn", "net.0", "net.2"),
        *parts.norms(BLOCK, "ln1", "ln2", "ln_f"),
        *parts.head("head"),
        *attention_parts.masks(BLOCK, "attn"),
        *attention_parts.caches(INSIDE),
        *tables(BLOCK, "attn"),
    ),
    words={"qkv": attention_parts.QKV},
    unsaid={**USUAL, "activation": "gelu"},
    beware=f"the heads are taken to lie one after the other in each matrix; {parts.BEWARE}",
    family=True,
    grouped=True,
)

DIALECTS = (with_all_norms(FAMILY, {"blocks/attn": INSIDE}, BLOCK, "ffn"),)

"""Decoders whose heads share one small matrix each for queries, keys and values."""

from ..names import attention_parts, parts
from ..names.modern_parts import tables, with_gated
from ..rows.dialect import Dialect
from ..rows.fields import USUAL

BLOCK = parts.block("blocks")
INSIDE = attention_parts.inside_attention(BLOCK, "attn")

FAMILY = Dialect(
    name="shared",
    about="decoders whose heads share one small matrix each for q, k and v",
    rows=(
        *parts.embeddings("token_embedding", "position_embedding"),
        *attention_parts.shared("blocks/attn", INSIDE),
        *attention_parts.out(BLOCK, "attn", "out_proj"),
        *parts.mlp(BLOCK, "ffn", "net.0", "net.2"),
        *parts.norms(BLOCK, "ln1", "ln2", "ln_f"),
        *parts.head("head"),
        *attention_parts.masks(BLOCK, "attn"),
        *attention_parts.caches(INSIDE),
        *tables(BLOCK, "attn"),
    ),
    words={"qkv": attention_parts.QKV},
    unsaid={**USUAL, "norm": "post", "attention_scale": "model_dim"},
    beware=f"each head is taken to read consecutive elements of the input; {parts.BEWARE}",
    family=True,
)

DIALECTS = (with_gated(FAMILY, BLOCK, "ffn"),)

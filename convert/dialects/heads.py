"""Decoders with one module for each head, under any of the names in `names.parts`."""

from ..names import attention_parts, parts
from ..names.modern_parts import tables, with_gated
from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.kinds import linear, mask

BLOCK = parts.block("blocks")
INSIDE = attention_parts.inside_attention(BLOCK, "mha")
HEAD = f"{INSIDE}{parts.choice(parts.HEADS, 'heads.')}{{head}}"
FUSED = parts.choice(attention_parts.FUSED, "qkv")
QUERY = parts.choice(attention_parts.QUERY, "query")
KEY_VALUE = parts.choice(attention_parts.KEY_VALUE, "key_value")

FAMILY = Dialect(
    name="heads",
    about="decoders with one module for each head",
    rows=(
        *parts.embeddings("token_embedding", "position_embedding"),
        *(
            mask(f"{HEAD}.{parts.choice(parts.MASKS, 'tril')} : {dims}", written=False)
            for dims in parts.SQUARES
        ),
        *linear("blocks/attn/qkv : layer d head qkv k", f"{HEAD}.{{qkv}} : k d", "?"),
        *linear("blocks/attn/qkv : layer d head qkv k", f"{INSIDE}{{qkv}}.{{head}} : k d", "?"),
        *linear("blocks/attn/qkv : layer d head qkv k", f"{HEAD}.{FUSED} : (qkv k) d", "?"),
        *linear("blocks/attn/qkv : layer d head qkv k", f"{HEAD}.{QUERY} : (q k) d", "?"),
        *linear("blocks/attn/qkv : layer d head qkv k", f"{HEAD}.{KEY_VALUE} : (k_v k) d", "?"),
        *attention_parts.out(BLOCK, "mha", "proj"),
        *parts.mlp(BLOCK, "ffn", "net.0", "net.2"),
        *parts.norms(BLOCK, "ln1", "ln2", "ln_f"),
        *parts.head("lm_head"),
        *attention_parts.masks(BLOCK, "mha"),
        *tables(BLOCK, "mha"),
    ),
    words={"qkv": attention_parts.QKV},
    unsaid={**USUAL, "dropout": 0.2},
    beware=f"some versions divide by the root of model_dim, others of head_dim; {parts.BEWARE}",
    family=True,
)

DIALECTS = (with_gated(FAMILY, BLOCK, "ffn"),)

"""torch's own layers: nn.TransformerEncoderLayer, and nn.MultiheadAttention in other blocks, under a causal mask."""

from convert import words
from convert.rows import USUAL, Dialect, Kind, Row, linear

UNMASKED = f"nothing shows that a causal mask was used, or that batch_first was set; {words.BEWARE}"


def attention(block: str, module: str) -> tuple[Kind, ...]:
    inside = f"{block}.{module}"
    return (
        Row("blocks/attn/qkv/kernel : layer d head qkv k", f"{inside}.in_proj_weight : (qkv head k) d"),
        Row("blocks/attn/qkv/bias : layer head qkv k", f"{inside}.in_proj_bias? : (qkv head k)"),
        *linear("blocks/attn/out : layer head k d", f"{inside}.out_proj : d (head k)", "?"),
    )


def dialect(name: str, about: str, block: str, module: str, **names: str) -> Dialect:
    return Dialect(
        name,
        about,
        rows=(
            *words.embeddings("token_embedding", "position_embedding"),
            *attention(block, module),
            *words.mlp(block, names["mlp"], names["up"], names["down"]),
            *words.norms(block, "norm1", "norm2", names["final"]),
            *words.head("lm_head"),
            *words.masks(block, "attn"),
        ),
        unsaid={**USUAL, "norm": "post", "dropout": 0.1},
        beware=UNMASKED,
        family=True,
    )


DIALECTS = (
    dialect(
        "torch-encoder", "nn.TransformerEncoderLayer under a causal mask", words.block("encoder.layers"), "self_attn",
        mlp="", up="linear1", down="linear2", final="encoder.norm",
    ),
    dialect(
        "torch-mha", "nn.MultiheadAttention in blocks of one's own", words.block("blocks"),
        words.choice(words.ATTENTION, "attn"), mlp="ffn", up="0", down="2", final="ln_f",
    ),
)  # fmt: skip

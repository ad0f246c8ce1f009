"""Decoders made of torch's layers under a causal mask.

Either nn.TransformerEncoderLayer, or nn.MultiheadAttention in other blocks.
"""

from ..names import attention_parts, parts
from ..names.modern_parts import with_gated
from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.kinds import Kind, linear, row

UNMASKED = f"nothing shows that a causal mask was used, or that batch_first was set; {parts.BEWARE}"


def attention(block: str, module: str) -> tuple[Kind, ...]:
    """The rows of the nn.MultiheadAttention `module`."""
    inside = f"{block}.{module}"
    return (
        row(
            "blocks/attn/qkv/kernel : layer d head qkv k",
            f"{inside}.in_proj_weight : (qkv head k) d",
        ),
        row("blocks/attn/qkv/bias : layer head qkv k", f"{inside}.in_proj_bias? : (qkv head k)"),
        *linear("blocks/attn/out : layer head k d", f"{inside}.out_proj : d (head k)", "?"),
    )


def dialect(
    name: str, about: str, block: str, module: str, usual: dict[str, str], **names: str
) -> Dialect:
    """A family of blocks `block` with the nn.MultiheadAttention `module`.

    `usual` are values that its files usually have; `names` gives the words of `mlp`, `up`, `down`
    and `final` that are written.
    """
    return Dialect(
        name,
        about,
        rows=(
            *parts.embeddings("token_embedding", "position_embedding"),
            *attention(block, module),
            *parts.mlp(block, names["mlp"], names["up"], names["down"]),
            *parts.norms(block, "norm1", "norm2", names["final"]),
            *parts.head("lm_head"),
            *attention_parts.masks(block, "attn"),
        ),
        unsaid={**USUAL, **usual, "dropout": 0.1},
        beware=UNMASKED,
        family=True,
    )


BLOCK = parts.block("blocks")
# Those of TransformerEncoderLayer itself, and those of public repositories.
LAYER, OWN = {"norm": "post", "activation": "relu"}, {"norm": "pre", "activation": "gelu"}
MHA = dialect(
    "torch-mha", "nn.MultiheadAttention in blocks of one's own", BLOCK,
    parts.choice(parts.ATTENTION, "attn"), OWN, mlp="ffn", up="0", down="2", final="ln_f",
)  # fmt: skip

DIALECTS = (
    dialect(
        "torch-encoder", "nn.TransformerEncoderLayer under a causal mask",
        parts.block("encoder.layers"), "self_attn", LAYER,
        mlp="", up="linear1", down="linear2", final="encoder.norm",
    ),
    with_gated(MHA, BLOCK, "ffn"),
)  # fmt: skip

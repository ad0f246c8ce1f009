"""Sebastian Raschka's Llama 2 and 3."""

from dataclasses import replace

from ..rows.dialect import Dialect
from ..rows.fields import MODERN
from ..rows.kinds import Kind, Row, linear, mask, norm, row, table, tied


def rows(block: str, norms: tuple[Row, ...]) -> tuple[Kind, ...]:
    """The rows of a class with blocks `block`, which contain `norms`."""
    return (
        row("token_embedding/embedding : v d", "tok_emb.weight : v d"),
        *linear("blocks/attn/qkv : layer d head qkv k", f"{block}.att.{{qkv}} : (head k) d", "no"),
        *linear("blocks/attn/out : layer head k d", f"{block}.att.out_proj : d (head k)", "no"),
        *linear("blocks/mlp/gate_up : layer d glu f", f"{block}.ff.{{glu}} : f d", "no"),
        *linear("blocks/mlp/down : layer f d", f"{block}.ff.fc3 : d f", "no"),
        *norms,
        tied("out_head.weight : v d"),
    )


def plain_norms(block: str, words: str) -> tuple[Row, ...]:
    """The rows of a norm before each part, and of the last one, called by `words`."""
    return (
        *norm("blocks/norm1", f"{block}.norm1", "no", words),
        *norm("blocks/norm2", f"{block}.norm2", "no", words),
        *norm("final_norm", "final_norm", "no", words),
    )


BLOCK = "trf_blocks.{layer}"
LLAMA = Dialect(
    name="raschka-llama",
    about="Raschka's Llama2Model and Llama3Model",
    rows=(
        *rows(BLOCK, plain_norms(BLOCK, "weight bias")),
        replace(mask(f"{BLOCK}.att.mask : t t", "upper"), written=False),
        table(f"{BLOCK}.att.cos? : u r", "cos"),
        table(f"{BLOCK}.att.sin? : u r", "sin"),
    ),
    words={"qkv": ("W_query W_key W_value",), "glu": ("gate=fc1 up=fc2",)},
    unsaid={**MODERN, "rotary_theta": 500000.0},
    grouped=True,
    layout="half",
    beware="Llama 2 has a rotary_theta of 10000 and Llama 3 one of 500000; later versions of the "
    "latter also scale their wavelengths",
)
DIALECTS = (LLAMA,)

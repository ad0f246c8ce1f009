"""TransformerLens' HookedTransformer, and classes that lessons on interpretability write like it.

Its matrices are bare parameters, (in, out), with an axis of heads. A model whose norms were folded
into the matrices after them has norms without weights.
"""

from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.kinds import EMBEDDING, HEAD, POSITIONS, Kind, ignored, mask, norm, row, table

BLOCK = "blocks.{layer}"
ATTENTION, MLP = f"{BLOCK}.attn", f"{BLOCK}.mlp"
ROWS: tuple[Kind, ...] = (
    row(EMBEDDING.text, "embed.W_E : v d"),
    row(f"{POSITIONS} : t d", "pos_embed.W_pos? : t d"),
    *norm("blocks/norm1", f"{BLOCK}.ln1", "?", "w b", absent="?"),
    *norm("blocks/norm2", f"{BLOCK}.ln2", "?", "w b", absent="?"),
    row("blocks/attn/qkv/kernel : layer d head qkv k", f"{ATTENTION}.W_{{qkv}} : head d k"),
    row("blocks/attn/out/kernel : layer head k d", f"{ATTENTION}.W_O : head k d"),
    row("blocks/attn/qkv/bias : layer head qkv k", f"{ATTENTION}.b_{{qkv}}? : head k"),
    row("blocks/attn/out/bias : layer d", f"{ATTENTION}.b_O? : d"),
    mask(f"{ATTENTION}.mask : t t", written=False),
    ignored(f"{ATTENTION}.IGNORE"),
    table(f"{ATTENTION}.rotary_sin? : u r", "sin"),
    table(f"{ATTENTION}.rotary_cos? : u r", "cos"),
    row("blocks/mlp/up/kernel : layer d f", f"{MLP}.W_in : d f"),
    row("blocks/mlp/up/bias : layer f", f"{MLP}.b_in? : f"),
    row("blocks/mlp/down/kernel : layer f d", f"{MLP}.W_out : f d"),
    row("blocks/mlp/down/bias : layer d", f"{MLP}.b_out? : d"),
    *norm("final_norm", "ln_final", "?", "w b", absent="?"),
    row(HEAD.text, "unembed.W_U : d v"),
    row("head/bias : v", "unembed.b_U? : v"),
)
DIALECTS = (
    Dialect(
        name="transformer-lens",
        about="TransformerLens' HookedTransformer",
        rows=ROWS,
        words={"qkv": ("Q K V",)},
        unsaid={**USUAL, "activation": "gelu_tanh"},
    ),
)

"""The TransformerLM of Stanford's CS336, as its handout names the tensors."""

from dataclasses import replace

from ..rows.dialect import Container, Dialect
from ..rows.fields import MODERN
from ..rows.kinds import Kind, linear, norm, row, tied

BLOCK = "layers.{layer}"
HEAD: tuple[Kind, ...] = (
    row("token_embedding/embedding : v d", "token_embeddings.weight : v d"),
    *linear("blocks/attn/qkv : layer d head qkv k", f"{BLOCK}.attn.{{qkv}} : (head k) d", "no"),
    *linear("blocks/attn/out : layer head k d", f"{BLOCK}.attn.output_proj : d (head k)", "no"),
)
TAIL: tuple[Kind, ...] = (
    *linear("blocks/mlp/down : layer f d", f"{BLOCK}.ffn.w2 : d f", "no"),
    *norm("blocks/norm1", f"{BLOCK}.ln1", "no"),
    *norm("blocks/norm2", f"{BLOCK}.ln2", "no"),
    *norm("final_norm", "ln_final", "no"),
    tied("lm_head.weight : v d"),
)
GATED = Dialect(
    name="cs336",
    about="the TransformerLM of Stanford's CS336",
    rows=(
        *HEAD,
        *linear("blocks/mlp/gate_up : layer d glu f", f"{BLOCK}.ffn.{{glu}} : f d", "no"),
        *TAIL,
    ),
    words={"qkv": ("q_proj k_proj v_proj",), "glu": ("gate=w1 up=w3",)},
    unsaid=MODERN,
    layout="interleaved",
    container=Container("model", "optimizer", step="iteration"),
    beware="the experiments of its handout, without rotary positions or with norms after the "
    "residual, have the same names",
)
PLAIN = replace(
    GATED, rows=(*HEAD, *linear("blocks/mlp/up : layer d f", f"{BLOCK}.ffn.w1 : f d", "no"), *TAIL)
)
DIALECTS = (replace(GATED, variants=(PLAIN,)),)

"""lucidrains' x-transformers: a TransformerWrapper around a Decoder.

Each block is two members of one list. A table of positions is used times model_dim ** -0.5.
"""

from dataclasses import replace

from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.kinds import EMBEDDING, POSITIONS, Kind, Scaled, linear, row, table, tied

NET = "(net.|)"
LAYERS = f"{NET}attn_layers.layers"
FIRST, SECOND = f"{LAYERS}.{{layer_x2}}", f"{LAYERS}.{{layer_x2p1}}"
PLAIN = linear("blocks/mlp/up : layer d f", f"{SECOND}.1.ff.0.0 : f d", "?")
GATED = linear("blocks/mlp/gate_up : layer d glu f", f"{SECOND}.1.ff.0.proj : (glu f) d", "?")


def rows(mlp: tuple[Kind, ...], scale: str) -> tuple[Kind, ...]:
    """The rows of the class with the first matrix `mlp` of MLPs, and norms that have a `scale`."""
    return (
        row(EMBEDDING.text, f"{NET}token_emb.emb.weight : v d"),
        row(f"{POSITIONS} : t d", f"{NET}pos_emb.emb.weight? : t d", Scaled),
        row("blocks/norm1/scale : layer d", f"{FIRST}.0.0.{scale} : d"),
        *linear("blocks/attn/qkv : layer d head qkv k", f"{FIRST}.1.{{qkv}} : (head k) d", "no"),
        *linear("blocks/attn/out : layer head k d", f"{FIRST}.1.to_out : d (head k)", "no"),
        row("blocks/norm2/scale : layer d", f"{SECOND}.0.0.{scale} : d"),
        *mlp,
        *linear("blocks/mlp/down : layer f d", f"{SECOND}.1.ff.2 : d f", "?"),
        table(f"{NET}attn_layers.rotary_pos_emb.inv_freq? : r", "frequencies"),
        row("final_norm/scale : d", f"{NET}attn_layers.final_norm.{scale} : d"),
        tied(f"{NET}to_logits.weight : v d"),
    )


LAYER = {**USUAL, "activation": "gelu", "norm_unit_offset": True, "rotary_fraction": 0.5}
RMS = {**LAYER, "norm_kind": "rms", "norm_eps": 0.0}
DECODER = Dialect(
    name="x-transformers",
    about="x-transformers' TransformerWrapper",
    rows=rows(PLAIN, "gamma"),
    words={"qkv": ("to_q to_k to_v",), "glu": ("up gate",)},
    unsaid=LAYER,
    grouped=True,
    layout="interleaved",
    beware="heads are 64 wide unless the class is told otherwise, and half of a head rotates",
)
DIALECTS = (
    replace(
        DECODER,
        variants=(
            replace(DECODER, rows=rows(PLAIN, "g"), unsaid=RMS),
            replace(DECODER, rows=rows(GATED, "gamma")),
            replace(DECODER, rows=rows(GATED, "g"), unsaid={**RMS, "activation": "silu"}),
        ),
    ),
)

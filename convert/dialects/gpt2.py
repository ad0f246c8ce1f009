"""Hugging Face's GPT-2, whose Conv1D matrices are stored as [in, out]."""

from dataclasses import replace

from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.hub import Hub
from ..rows.kinds import Kind, Row, ignored, linear, mask, norm, row, tied

BLOCK = "(transformer.|)h.{layer}"
CLASS = {**USUAL, "activation": "gelu_tanh", "dropout": 0.1}


def conv(flax: str, torch: str) -> tuple[Row, ...]:
    """The rows of a Conv1D in a block."""
    return linear(flax, f"{BLOCK}.{torch}", conv=True)


CONV = (
    *conv("blocks/attn/qkv : layer d head qkv k", "attn.c_attn : d (qkv head k)"),
    *conv("blocks/attn/out : layer head k d", "attn.c_proj : (head k) d"),
    *conv("blocks/mlp/up : layer d f", "mlp.c_fc : d f"),
    *conv("blocks/mlp/down : layer f d", "mlp.c_proj : f d"),
)
WORDS = (
    "vocab_size n_positions n_embd n_layer n_head layer_norm_epsilon resid_pdrop "
    "tie_word_embeddings"
)
REPEATED = {"embd_pdrop": "resid_pdrop", "attn_pdrop": "resid_pdrop"}
CROSS: tuple[Kind, ...] = (
    *norm("blocks/cross_norm", f"{BLOCK}.ln_cross_attn"),
    ignored(f"{BLOCK}.crossattention.(bias|masked_bias)"),
    *conv("blocks/cross_attn/qkv : layer d head qkv k", "crossattention.q_attn : d (q head k)"),
    *conv("blocks/cross_attn/qkv : layer d head qkv k", "crossattention.c_attn : d (k_v head k)"),
    *conv("blocks/cross_attn/out : layer head k d", "crossattention.c_proj : (head k) d"),
)
GPT2 = Dialect(
    name="gpt2",
    about="Hugging Face's GPT2LMHeadModel",
    rows=(
        row("token_embedding/embedding : v d", "(transformer.|)wte.weight : v d"),
        row("pos_embedding/embedding : t d", "(transformer.|)wpe.weight : t d"),
        *norm("blocks/norm1", f"{BLOCK}.ln_1"),
        mask(f"{BLOCK}.attn.bias : () () t t", written=False),
        ignored(f"{BLOCK}.attn.masked_bias"),
        *CONV,
        *norm("blocks/norm2", f"{BLOCK}.ln_2"),
        *norm("final_norm", "(transformer.|)ln_f"),
        tied("lm_head.weight : v d"),
    ),
    unsaid=CLASS,
    says={"model_type": {"gpt2": CLASS}},
    hub=Hub(
        "GPT2LMHeadModel",
        f"{WORDS} n_inner activation_function scale_attn_weights "
        "scale_attn_by_inverse_layer_idx add_cross_attention",
        REPEATED,
    ),
)
DIALECTS = (replace(GPT2, variants=(replace(GPT2, rows=(*GPT2.rows, *CROSS)),)),)

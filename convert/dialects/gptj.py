"""Hugging Face's GPT-J, which rotates neighbours and has one norm for attention and MLP."""

from ..names.rope_idioms import RotaryDim
from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.hub import Hub
from ..rows.kinds import Kind, ignored, linear, norm, row, tied
from . import llama

BLOCK = "(transformer.|)h.{layer}"
CLASS = {
    **USUAL,
    "positions": "rotary",
    "activation": "gelu_tanh",
    "residual": "parallel_one_norm",
    "rotary_layout": "interleaved",
}
WORDS = (
    "vocab_size n_positions n_embd n_layer n_head n_inner activation_function "
    "layer_norm_epsilon resid_pdrop tie_word_embeddings"
)
REPEATED = {"embd_pdrop": "resid_pdrop", "attn_pdrop": "resid_pdrop"}
MLP = (
    *linear("blocks/mlp/up : layer d f", f"{BLOCK}.mlp.fc_in : f d"),
    *linear("blocks/mlp/down : layer f d", f"{BLOCK}.mlp.fc_out : d f"),
)
ENDS: tuple[Kind, ...] = (
    row("token_embedding/embedding : v d", "(transformer.|)wte.weight : v d"),
    *norm("final_norm", "(transformer.|)ln_f"),
    tied("lm_head.weight : v d"),
    row("head/bias : v", "lm_head.bias : v"),
)
OUT = linear("blocks/attn/out : layer head k d", f"{BLOCK}.attn.out_proj : d (head k)", "no")
BUFFERS = tuple(ignored(f"{BLOCK}.attn.{name}") for name in ("bias", "masked_bias", "causal_mask"))

DIALECTS = (
    Dialect(
        name="gptj",
        about="Hugging Face's GPTJForCausalLM",
        rows=(
            ENDS[0],
            *norm("blocks/norm1", f"{BLOCK}.ln_1"),
            *BUFFERS,
            *linear(
                "blocks/attn/qkv : layer d head qkv k", f"{BLOCK}.attn.{{qkv}} : (head k) d", "no"
            ),
            *OUT,
            *MLP,
            *ENDS[1:],
        ),
        words={"qkv": ("k_proj v_proj q_proj",)},
        unsaid=CLASS,
        says=llama.kind("gptj", CLASS),
        layout="interleaved",
        hub=Hub("GPTJForCausalLM", WORDS, REPEATED, idioms=(RotaryDim(),)),
    ),
)

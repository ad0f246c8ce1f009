"""Hugging Face's GPTBigCode, the class of StarCoder: GPT-2 with one key head, or one for each."""

from ..names.class_idioms import MultiQuery
from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.hub import Hub
from ..rows.kinds import ignored, linear, norm, row, tied
from . import gpt2, llama

BLOCK = gpt2.BLOCK
CLASS = {**USUAL, "activation": "gelu_tanh", "dropout": 0.1}

DIALECTS = (
    Dialect(
        name="gptbigcode",
        about="Hugging Face's GPTBigCodeForCausalLM",
        rows=(
            row("token_embedding/embedding : v d", "(transformer.|)wte.weight : v d"),
            row("pos_embedding/embedding : t d", "(transformer.|)wpe.weight : t d"),
            *norm("blocks/norm1", f"{BLOCK}.ln_1"),
            ignored(f"{BLOCK}.attn.bias"),
            ignored(f"{BLOCK}.attn.masked_bias"),
            *linear(
                "blocks/attn/qkv : layer d head qkv k", f"{BLOCK}.attn.c_attn : (head qkv k) d"
            ),
            *linear("blocks/attn/out : layer head k d", f"{BLOCK}.attn.c_proj : d (head k)"),
            *norm("blocks/norm2", f"{BLOCK}.ln_2"),
            *linear("blocks/mlp/up : layer d f", f"{BLOCK}.mlp.c_fc : f d"),
            *linear("blocks/mlp/down : layer f d", f"{BLOCK}.mlp.c_proj : d f"),
            *norm("final_norm", "(transformer.|)ln_f"),
            tied("lm_head.weight : v d"),
        ),
        unsaid=CLASS,
        says=llama.kind("gpt_bigcode", CLASS, ties=True),
        grouped=True,
        yields_to="nanogpt",
        hub=Hub(
            "GPTBigCodeForCausalLM",
            f"{gpt2.WORDS} n_inner activation_function scale_attn_weights",
            gpt2.REPEATED,
            idioms=(MultiQuery(),),
        ),
    ),
)

"""Hugging Face's GPT-Neo: GPT-2 with matrices as [out, in], no scale, windows in some blocks."""

from ..names.class_idioms import LocalAttention
from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.hub import Hub
from ..rows.kinds import ignored, linear, norm, row, tied
from . import llama

BLOCK = "(transformer.|)h.{layer}"
CLASS = {**USUAL, "activation": "gelu_tanh", "attention_scale": "none"}

DIALECTS = (
    Dialect(
        name="gpt-neo",
        about="Hugging Face's GPTNeoForCausalLM",
        rows=(
            row("token_embedding/embedding : v d", "(transformer.|)wte.weight : v d"),
            row("pos_embedding/embedding : t d", "(transformer.|)wpe.weight : t d"),
            *norm("blocks/norm1", f"{BLOCK}.ln_1"),
            ignored(f"{BLOCK}.attn.attention.bias"),
            ignored(f"{BLOCK}.attn.attention.masked_bias"),
            *linear(
                "blocks/attn/qkv : layer d head qkv k",
                f"{BLOCK}.attn.attention.{{qkv}} : (head k) d",
                "no",
            ),
            *linear(
                "blocks/attn/out : layer head k d", f"{BLOCK}.attn.attention.out_proj : d (head k)"
            ),
            *norm("blocks/norm2", f"{BLOCK}.ln_2"),
            *linear("blocks/mlp/up : layer d f", f"{BLOCK}.mlp.c_fc : f d"),
            *linear("blocks/mlp/down : layer f d", f"{BLOCK}.mlp.c_proj : d f"),
            *norm("final_norm", "(transformer.|)ln_f"),
            tied("lm_head.weight : v d"),
        ),
        words={"qkv": ("k_proj v_proj q_proj",)},
        unsaid=CLASS,
        says=llama.kind("gpt_neo", CLASS, ties=True),
        hub=Hub(
            "GPTNeoForCausalLM",
            "vocab_size max_position_embeddings hidden_size num_layers num_heads intermediate_size "
            "activation_function layer_norm_epsilon resid_dropout tie_word_embeddings",
            {"embed_dropout": "resid_dropout", "attention_dropout": "resid_dropout"},
            idioms=(LocalAttention(),),
        ),
    ),
)

"""Hugging Face's MPT: ALiBi, LayerNorm without biases, one matrix of all q, all k, all v."""

from ..names.class_idioms import MptAttention
from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.hub import Hub
from ..rows.kinds import linear, norm, row, tied
from . import llama

BLOCK = "(transformer.|)blocks.{layer}"
CLASS = {**USUAL, "positions": "alibi", "activation": "gelu"}

DIALECTS = (
    Dialect(
        name="mpt",
        about="Hugging Face's MptForCausalLM",
        rows=(
            row("token_embedding/embedding : v d", "(transformer.|)wte.weight : v d"),
            *norm("blocks/norm1", f"{BLOCK}.norm_1", "no"),
            *linear(
                "blocks/attn/qkv : layer d head qkv k", f"{BLOCK}.attn.Wqkv : (qkv head k) d", "no"
            ),
            *linear(
                "blocks/attn/out : layer head k d", f"{BLOCK}.attn.out_proj : d (head k)", "no"
            ),
            *norm("blocks/norm2", f"{BLOCK}.norm_2", "no"),
            *linear("blocks/mlp/up : layer d f", f"{BLOCK}.ffn.up_proj : f d", "no"),
            *linear("blocks/mlp/down : layer f d", f"{BLOCK}.ffn.down_proj : d f", "no"),
            *norm("final_norm", "(transformer.|)norm_f", "no"),
            tied("lm_head.weight : v d"),
        ),
        unsaid=CLASS,
        says=llama.kind("mpt", CLASS, ties=True),
        hub=Hub(
            "MptForCausalLM",
            "vocab_size d_model n_layers n_heads max_seq_len layer_norm_epsilon resid_pdrop "
            "tie_word_embeddings",
            {"emb_pdrop": "resid_pdrop"},
            idioms=(MptAttention(),),
        ),
    ),
)

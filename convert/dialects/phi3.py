"""Hugging Face's Phi-3: a Llama with one matrix for q, k and v, and one for gate and up."""

from ..names.idioms import Window
from ..names.rope_idioms import Rope
from ..rows.dialect import Dialect
from ..rows.fields import MODERN
from ..rows.hub import Hub
from ..rows.kinds import linear
from . import llama

BLOCK = llama.BLOCK

DIALECTS = (
    Dialect(
        name="phi3",
        about="Hugging Face's Phi3ForCausalLM",
        rows=(
            llama.EMBEDDING,
            *linear(
                "blocks/attn/out : layer head k d", f"{BLOCK}.self_attn.o_proj : d (head k)", "no"
            ),
            *linear(
                "blocks/attn/qkv : layer d head qkv k",
                f"{BLOCK}.self_attn.qkv_proj : (qkv head k) d",
                "no",
            ),
            *linear(
                "blocks/mlp/gate_up : layer d glu f", f"{BLOCK}.mlp.gate_up_proj : (glu f) d", "no"
            ),
            *linear("blocks/mlp/down : layer f d", f"{BLOCK}.mlp.down_proj : d f", "no"),
            *llama.norms(),
            llama.HEAD,
        ),
        unsaid=MODERN,
        says=llama.kind("phi3", MODERN),
        grouped=True,
        layout="half",
        hub=Hub(
            "Phi3ForCausalLM",
            llama.WORDS.replace("head_dim ", ""),
            {"resid_pdrop": "attention_dropout", "embd_pdrop": "attention_dropout"},
            idioms=(Rope(), Window()),
        ),
    ),
)

"""Hugging Face's CodeGen: GPT-J with one matrix of four parts, each with q, v, k of its heads."""

from ..names.rope_idioms import RotaryDim
from ..rows.dialect import Dialect
from ..rows.hub import Hub
from ..rows.kinds import norm, row
from . import gptj, llama

BLOCK = gptj.BLOCK

DIALECTS = (
    Dialect(
        name="codegen",
        about="Hugging Face's CodeGenForCausalLM",
        rows=(
            gptj.ENDS[0],
            *norm("blocks/norm1", f"{BLOCK}.ln_1"),
            *gptj.BUFFERS,
            row(
                "blocks/attn/qkv/kernel : layer d (4 head/4) qkv k",
                f"{BLOCK}.attn.qkv_proj.weight : (4 qkv head/4 k) d",
            ),
            *gptj.OUT,
            *gptj.MLP,
            *gptj.ENDS[1:],
        ),
        words={"qkv": ("query value key",)},
        unsaid=gptj.CLASS,
        says=llama.kind("codegen", gptj.CLASS),
        layout="interleaved",
        hub=Hub("CodeGenForCausalLM", gptj.WORDS, gptj.REPEATED, idioms=(RotaryDim(),)),
    ),
)

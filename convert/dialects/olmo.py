"""Hugging Face's OLMo, whose norms have no weights, and OLMo 2 and 3, which norm their outputs."""

from dataclasses import replace

from ..names.idioms import Window
from ..names.rope_idioms import Rope, RopeByWindow
from ..rows.dialect import Dialect
from ..rows.hub import Hub
from ..rows.kinds import norm, row
from . import llama

BLOCK = llama.BLOCK
CLASS = {**llama.CLASS, "norm_kind": "layer", "norm_weight": False, "norm_eps": 1e-5}
OUTPUT = {**llama.CLASS, "norm": "output", "norm_eps": 1e-5, "qk_norm": "full_width"}
OLMO3 = {**OUTPUT, "rotary_theta": 500000.0}
OLMO2 = Dialect(
    name="olmo2",
    about="Hugging Face's Olmo2ForCausalLM",
    rows=(
        llama.EMBEDDING,
        *llama.attention("?", "?"),
        row(
            "blocks/attn/q_norm/scale : layer kv group k",
            f"{BLOCK}.self_attn.q_norm.weight : (head k)",
        ),
        row(
            "blocks/attn/k_norm/scale : layer kv () k", f"{BLOCK}.self_attn.k_norm.weight : (kv k)"
        ),
        *llama.gated(),
        *norm("blocks/norm1", f"{BLOCK}.post_attention_layernorm", "no"),
        *norm("blocks/norm2", f"{BLOCK}.post_feedforward_layernorm", "no"),
        *norm("final_norm", "(model.|)norm", "no"),
        llama.HEAD,
    ),
    words=llama.NAMES,
    unsaid=OUTPUT,
    says=llama.kind("olmo2", OUTPUT),
    grouped=True,
    layout="half",
    hub=Hub("Olmo2ForCausalLM", llama.WORDS, idioms=(Rope(), llama.ATTENTION_BIAS)),
)

DIALECTS = (
    Dialect(
        name="olmo",
        about="Hugging Face's OlmoForCausalLM",
        rows=(llama.EMBEDDING, *llama.attention("?", "?"), *llama.gated(), llama.HEAD),
        words=llama.NAMES,
        unsaid=CLASS,
        says=llama.kind("olmo", CLASS),
        grouped=True,
        layout="half",
        hub=Hub(
            "OlmoForCausalLM",
            llama.WORDS.replace(" rms_norm_eps", ""),
            idioms=(Rope(), llama.ATTENTION_BIAS),
            refused={"clip_qkv": "cuts queries, keys and values to a range"},
        ),
    ),
    OLMO2,
    replace(
        OLMO2,
        name="olmo3",
        about="Hugging Face's Olmo3ForCausalLM",
        unsaid=OLMO3,
        says=llama.kind("olmo3", OLMO3),
        hub=Hub(
            "Olmo3ForCausalLM",
            llama.WORDS,
            idioms=(
                Window(4096, "interval", 4),
                RopeByWindow(500000.0, 500000.0, "rope_theta"),
                llama.ATTENTION_BIAS,
            ),
        ),
        twin="olmo2",
    ),
)

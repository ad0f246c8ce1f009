"""Hugging Face's EXAONE 4: norms of outputs, and only blocks with a window rotate."""

from ..names.idioms import Window
from ..names.rope_idioms import OnlyWindowsRotate, Rope
from ..rows.dialect import Dialect
from ..rows.hub import Hub
from ..rows.kinds import norm
from . import llama

CLASS = {**llama.CLASS, "norm": "output", "norm_eps": 1e-5, "qk_norm": "before_rotary"}

DIALECTS = (
    Dialect(
        name="exaone4",
        about="Hugging Face's Exaone4ForCausalLM",
        rows=(
            llama.EMBEDDING,
            *llama.attention(),
            *llama.head_norms(),
            *llama.gated(),
            *norm("blocks/norm1", f"{llama.BLOCK}.post_attention_layernorm", "no"),
            *norm("blocks/norm2", f"{llama.BLOCK}.post_feedforward_layernorm", "no"),
            *norm("final_norm", "(model.|)norm", "no"),
            llama.HEAD,
        ),
        words=llama.NAMES,
        unsaid=CLASS,
        says=llama.kind("exaone4", CLASS),
        grouped=True,
        layout="half",
        hub=Hub(
            "Exaone4ForCausalLM",
            llama.WORDS,
            idioms=(
                Window(4096, "interval", 4),
                Rope(),
                OnlyWindowsRotate(all_without_window=True),
            ),
        ),
    ),
)

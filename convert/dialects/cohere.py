"""Hugging Face's Cohere: attention and MLP after one norm without a bias, neighbours rotated."""

from dataclasses import replace

from ..names.idioms import Window
from ..names.rope_idioms import OnlyWindowsRotate, Rope
from ..rows.dialect import Dialect
from ..rows.hub import Hub
from ..rows.kinds import norm
from . import llama

CLASS = {
    **llama.CLASS,
    "norm_kind": "layer",
    "norm_eps": 1e-5,
    "residual": "parallel_one_norm",
    "rotary_layout": "interleaved",
    "logit_scale": 0.0625,
    "rotary_theta": 500000.0,
}
WORDS = f"{llama.WORDS.replace('rms_norm_eps', 'layer_norm_eps')} logit_scale"
COHERE = Dialect(
    name="cohere",
    about="Hugging Face's CohereForCausalLM",
    rows=(
        llama.EMBEDDING,
        *llama.attention("?", "?"),
        *llama.gated(),
        *norm("blocks/norm1", f"{llama.BLOCK}.input_layernorm", "no"),
        *norm("final_norm", "(model.|)norm", "no"),
        llama.HEAD,
    ),
    words=llama.NAMES,
    unsaid=CLASS,
    says=llama.kind("cohere", CLASS, ties=True),
    grouped=True,
    layout="interleaved",
    hub=Hub(
        "CohereForCausalLM",
        WORDS,
        idioms=(Rope(500000.0), llama.ATTENTION_BIAS),
        refused={"use_qk_norm": "norms q and k with weights of their own for each head"},
    ),
)
COHERE2 = {**CLASS, "rotary_theta": 10000.0}
DIALECTS = (
    COHERE,
    replace(
        COHERE,
        name="cohere2",
        about="Hugging Face's Cohere2ForCausalLM",
        unsaid=COHERE2,
        says=llama.kind("cohere2", COHERE2, ties=True),
        hub=Hub(
            "Cohere2ForCausalLM",
            WORDS,
            idioms=(
                Window(4096, "interval", 4),
                Rope(),
                OnlyWindowsRotate(),
                llama.ATTENTION_BIAS,
            ),
        ),
        twin="cohere",
    ),
)

"""Hugging Face's Gemma, Gemma 2 and Gemma 3, whose norms multiply by 1 + weight.

Gemma has the tensor names of a Llama with a tied head.
"""

from dataclasses import replace

from ..names.idioms import QueryScalar, RootOfWidth, Window
from ..names.rope_idioms import Rope, RopeByWindow
from ..rows.dialect import Dialect
from ..rows.hub import Hub
from ..rows.kinds import norm
from . import llama

GEMMA = {**llama.CLASS, "activation": "gelu_tanh", "norm_unit_offset": True}
SANDWICH = {**GEMMA, "extra_norms": ["sandwich"]}
GEMMA2 = {**SANDWICH, "attention_softcap": 50.0, "logit_softcap": 30.0}
GEMMA3 = {**SANDWICH, "qk_norm": "before_rotary"}
TWO_WORDS = f"{llama.WORDS.replace('hidden_act ', 'hidden_activation ')}"
WORDS = f"{TWO_WORDS} attn_logit_softcapping final_logit_softcapping"
BIASED = (llama.ATTENTION_BIAS,)
BOTH_WAYS = {"use_bidirectional_attention": "looks at the text in both directions"}
FOUR = (
    *norm("blocks/norm1", f"{llama.BLOCK}.input_layernorm", "no"),
    *norm("blocks/out_norm1", f"{llama.BLOCK}.post_attention_layernorm", "no"),
    *norm("blocks/norm2", f"{llama.BLOCK}.pre_feedforward_layernorm", "no"),
    *norm("blocks/out_norm2", f"{llama.BLOCK}.post_feedforward_layernorm", "no"),
    *norm("final_norm", "(model.|)norm", "no"),
)

TWO = Dialect(
    name="gemma2",
    about="Hugging Face's Gemma2ForCausalLM",
    rows=(llama.EMBEDDING, *llama.attention("?", "?"), *llama.gated(), *FOUR, llama.HEAD),
    words=llama.NAMES,
    unsaid=GEMMA2,
    says=llama.kind("gemma2", GEMMA2, ties=True),
    grouped=True,
    layout="half",
    hub=Hub(
        "Gemma2ForCausalLM",
        WORDS,
        idioms=(*BIASED, RootOfWidth(), QueryScalar(), Window(4096, "interval", 2), Rope()),
        refused=BOTH_WAYS,
        even=True,
    ),
)

DIALECTS = (
    replace(
        llama.LLAMA,
        name="gemma",
        about="Hugging Face's GemmaForCausalLM",
        rows=(
            llama.EMBEDDING,
            *llama.attention("?", "?"),
            *llama.gated(),
            *llama.norms(),
            llama.HEAD,
        ),
        unsaid=GEMMA,
        says={
            **llama.kind("gemma", GEMMA, ties=True),
            "hidden_act": {"gelu": {"activation": "gelu_tanh"}},
        },
        hub=Hub(
            "GemmaForCausalLM",
            llama.WORDS,
            idioms=(*BIASED, RootOfWidth(), Rope()),
            refused=BOTH_WAYS,
        ),
        twin="llama",
    ),
    TWO,
    replace(
        TWO,
        name="gemma3",
        about="Hugging Face's Gemma3ForCausalLM",
        rows=(
            llama.EMBEDDING,
            *llama.attention("?", "?"),
            *llama.head_norms(),
            *llama.gated(),
            *FOUR,
            llama.HEAD,
        ),
        unsaid=GEMMA3,
        says=llama.kind("gemma3_text", GEMMA3, ties=True),
        hub=Hub(
            "Gemma3ForCausalLM",
            WORDS,
            idioms=(
                *BIASED,
                RootOfWidth(),
                QueryScalar(),
                Window(4096, "interval", 6),
                RopeByWindow(1e6, 1e4),
            ),
            refused=BOTH_WAYS,
            even=True,
        ),
    ),
)

"""Hugging Face's class of nanochat: no norm has a weight, and it rotates by minus the angle."""

from ..names.rope_idioms import Rope
from ..rows.dialect import Dialect
from ..rows.hub import Hub
from ..rows.kinds import linear
from . import llama

CLASS = {
    **llama.CLASS,
    "activation": "relu2",
    "norm_weight": False,
    "qk_norm": "after_rotary",
    "extra_norms": ["embedding"],
    "logit_softcap": 15.0,
}

DIALECTS = (
    Dialect(
        name="nanochat-hf",
        about="Hugging Face's NanoChatForCausalLM",
        rows=(
            llama.EMBEDDING,
            *llama.attention("?", "?"),
            *linear("blocks/mlp/up : layer d f", f"{llama.BLOCK}.mlp.fc1 : f d", "no"),
            *linear("blocks/mlp/down : layer f d", f"{llama.BLOCK}.mlp.fc2 : d f", "no"),
            llama.HEAD,
        ),
        words=llama.NAMES,
        unsaid=CLASS,
        says=llama.kind("nanochat", CLASS),
        grouped=True,
        layout="half",
        backward=True,
        hub=Hub(
            "NanoChatForCausalLM",
            f"{llama.WORDS} final_logit_softcapping",
            idioms=(Rope(), llama.ATTENTION_BIAS),
        ),
    ),
)

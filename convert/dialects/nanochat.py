"""nanochat's GPT of 2025: no norm has a weight, and its rotation goes backwards.

Since January 2026 the class has weighted residuals and value embeddings, which have no place here.
"""

from ..rows.dialect import Dialect
from ..rows.fields import MODERN
from ..rows.kinds import linear, row, tied

BLOCK = "transformer.h.{layer}"

DIALECTS = (
    Dialect(
        name="nanochat",
        about="nanochat's GPT of October to December 2025",
        rows=(
            row("token_embedding/embedding : v d", "transformer.wte.weight : v d"),
            *linear(
                "blocks/attn/qkv : layer d head qkv k", f"{BLOCK}.attn.{{qkv}} : (head k) d", "no"
            ),
            *linear("blocks/attn/out : layer head k d", f"{BLOCK}.attn.c_proj : d (head k)", "no"),
            *linear("blocks/mlp/up : layer d f", f"{BLOCK}.mlp.c_fc : f d", "no"),
            *linear("blocks/mlp/down : layer f d", f"{BLOCK}.mlp.c_proj : d f", "no"),
            tied("lm_head.weight : v d"),
        ),
        words={"qkv": ("c_q c_k c_v",)},
        unsaid={
            **MODERN,
            "activation": "relu2",
            "norm_eps": "dtype",
            "qk_norm": "after_rotary",
            "extra_norms": ["embedding"],
            "logit_softcap": 15.0,
        },
        grouped=True,
        layout="half",
        backward=True,
        beware="the class of October 2024 in modded-nanogpt has the same names, but no cap of its "
        "logits",
    ),
)

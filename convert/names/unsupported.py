"""Tensor names of unsupported architectures, to tell the user why a file is refused."""

import re
from collections.abc import Iterable

SIGNS = {
    r"(multihead_attn|cross_?attn|cross_?attention|encoder_attn|encdec_attn)": "a decoder with "
    "cross-attention, which looks at a second text",
    r"(rnn|lstm|gru)\b|weight_[ih]h_l\d": "a recurrent network",
    r"(^|\.)conv\w*\.\d*\.?weight": "a convolution",
    r"experts?\.\d+\.": "a mixture of experts",
    r"relative_attention_bias|rel_pos|r_w_bias": "relative positions",
    r"lora_[AB]": "a LoRA adapter, not a model; merge it into the model first",
    r"qweight|qzeros|weight_scale|SCB\b": "quantised weights",
    r"project_(in|out)\.weight": "embeddings of another width than the model's (project_in, "
    "project_out)",
    r"(^|\.)score\.weight|classifier\.|multiple_choice_head": "a classifier's head instead of a "
    "language model's",
    r"resid_lambdas|value_embeds": "nanochat since 2026, with value embeddings and weighted "
    "residuals",
    r"(^|\.)bias_[kv]$": "attention with bias_k and bias_v",
    r"token_type_embeddings|pooler\.dense": "an encoder of the BERT family",
}


def reasons(names: Iterable[str]) -> list[str]:
    """A sentence for each architecture that `names` show, with the first name that shows it."""
    found = {}
    for name in names:
        for sign, meaning in SIGNS.items():
            if meaning not in found and re.search(sign, name):
                found[meaning] = name
    return [f"{name} belongs to {meaning}" for meaning, name in found.items()]

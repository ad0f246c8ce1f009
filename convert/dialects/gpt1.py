"""Hugging Face's OpenAI GPT-1: the attention of GPT-2, post-norm, without a final norm."""

from ..rows.dialect import Dialect
from ..rows.hub import Hub
from ..rows.kinds import mask, norm, row, tied
from .gpt2 import BLOCK, CLASS, CONV, REPEATED, WORDS

POST = {**CLASS, "norm": "post"}

DIALECTS = (
    Dialect(
        name="gpt1",
        about="Hugging Face's OpenAIGPTLMHeadModel",
        rows=(
            row("token_embedding/embedding : v d", "(transformer.|)tokens_embed.weight : v d"),
            row("pos_embedding/embedding : t d", "(transformer.|)positions_embed.weight : t d"),
            mask(f"{BLOCK}.attn.bias : () () t t", written=False),
            *CONV,
            *norm("blocks/norm1", f"{BLOCK}.ln_1"),
            *norm("blocks/norm2", f"{BLOCK}.ln_2"),
            tied("lm_head.weight : v d"),
        ),
        unsaid=POST,
        says={"model_type": {"openai-gpt": POST}, "afn": {"gelu": {"activation": "gelu_tanh"}}},
        hub=Hub("OpenAIGPTLMHeadModel", f"{WORDS} afn", REPEATED, lacks="relu2"),
    ),
)

"""The GPTLanguageModel of the ng-video-lecture and of freeCodeCamp's course.

Both have one module for each head and the same tensor names; the course is post-norm.
"""

from dataclasses import replace

from ..rows.dialect import Dialect
from ..rows.fields import USUAL
from ..rows.kinds import embeddings, linear, mask, norm, row, tied

BLOCK = "blocks.{layer}"

LECTURE = Dialect(
    name="ng",
    about="the ng-video-lecture's GPTLanguageModel",
    rows=(
        *embeddings("token_embedding_table", "position_embedding_table.weight"),
        mask(f"{BLOCK}.sa.heads.{{head}}.tril : t t"),
        *linear(
            "blocks/attn/qkv : layer d head qkv k", f"{BLOCK}.sa.heads.{{head}}.{{qkv}} : k d", "?"
        ),
        *linear("blocks/attn/out : layer head k d", f"{BLOCK}.sa.proj : d (head k)", "?"),
        *linear("blocks/mlp/up : layer d f", f"{BLOCK}.ffwd.net.0 : f d", "?"),
        *linear("blocks/mlp/down : layer f d", f"{BLOCK}.ffwd.net.2 : d f", "?"),
        *norm("blocks/norm1", f"{BLOCK}.ln1", "?"),
        *norm("blocks/norm2", f"{BLOCK}.ln2", "?"),
        *norm("final_norm", "ln_f", absent="?"),
        tied("lm_head.weight : v d"),
        row("head/bias : v", "lm_head.bias? : v"),
    ),
    words={"qkv": ("key query value",)},
    unsaid={**USUAL, "dropout": 0.2},
    beware="classes with these names divide the scores of attention by the root of model_dim or of "
    "head_dim: the lecture's code did the first until January 2023, and the second from then on",
)
COURSE = replace(
    LECTURE,
    name="freecodecamp",
    about="freeCodeCamp's course on language models: the lecture's names, norms after the residual",
    unsaid={**USUAL, "norm": "post", "dropout": 0.2},
    twin="ng",
    beware="",
)
DIALECTS = (LECTURE, COURSE)

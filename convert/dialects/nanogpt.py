"""nanoGPT and classes with its tensor names: build-nanogpt, minGPT since 2022, makemore."""

from dataclasses import replace

from ..rows.dialect import Container, Dialect
from ..rows.fields import USUAL
from ..rows.kinds import Buffer, linear, mask, norm, row, tied

BLOCK = "(transformer.|)h.{layer}"
QKV = "blocks/attn/qkv : layer d head qkv k"
WORDS = "(weight|gamma) (bias|beta)"
MINGPT_HEADS = {
    "gpt-nano": 3, "gpt-micro": 4, "gpt-mini": 6, "gopher-44m": 8,
    "gpt2": 12, "openai-gpt": 12, "gpt2-medium": 16, "gpt2-large": 20, "gpt2-xl": 25,
}  # fmt: skip
ARGS = {
    "n_layer": "num_blocks", "n_head": "num_heads", "n_embd": "model_dim",
    "block_size": "context_length", "bias": "norm_bias qkv_bias attention_out_bias mlp_bias",
    "vocab_size": "vocab_size", "dropout": "dropout",
}  # fmt: skip

NANOGPT = Dialect(
    name="nanogpt",
    about="nanoGPT's GPT",
    rows=(
        row("token_embedding/embedding : v d", "(transformer.|)wte.weight : v d"),
        row("pos_embedding/embedding : t d", "(transformer.|)wpe.weight : t d"),
        *norm("blocks/norm1", f"{BLOCK}.ln_1", "?", WORDS),
        mask(f"{BLOCK}.attn.bias : () () t t", written=False),
        *linear(QKV, f"{BLOCK}.attn.c_attn : (qkv head k) d", "?"),
        *linear("blocks/attn/out : layer head k d", f"{BLOCK}.attn.c_proj : d (head k)", "?"),
        *norm("blocks/norm2", f"{BLOCK}.ln_2", "?", WORDS),
        *linear("blocks/mlp/up : layer d f", f"{BLOCK}.mlp.c_fc : f d", "?"),
        *linear("blocks/mlp/down : layer f d", f"{BLOCK}.mlp.c_proj : d f", "?"),
        *norm("final_norm", "(transformer.|)ln_f", "?", WORDS, absent="?"),
        tied("lm_head.weight : v d"),
    ),
    unsaid={**USUAL, "activation": "gelu"},
    container=Container(
        "model", "optimizer", "model_args", ARGS, "iter_num", "best_val_loss", groups="matrices"
    ),
    beware="before May 2023 its GELU was the tanh one",
)
TANH = {**USUAL, "activation": "gelu_tanh"}
MINGPT_ROWS = tuple(
    replace(row, written=True) if isinstance(row, Buffer) else row for row in NANOGPT.rows
)

DIALECTS = (
    NANOGPT,
    Dialect(
        "build-nanogpt", "build-nanogpt's GPT", NANOGPT.rows, TANH,
        twin="nanogpt", told_by=frozenset({"step", "val_loss"}),
    ),
    Dialect(
        "mingpt", "minGPT's GPT, of 2022 and after", MINGPT_ROWS, {**TANH, "dropout": 0.1},
        says={"model_type": {name: {"num_heads": heads} for name, heads in MINGPT_HEADS.items()}},
        twin="nanogpt", told_by=frozenset({"mask", "untied"}),
    ),
    Dialect("makemore", "makemore's Transformer", MINGPT_ROWS, TANH, twin="nanogpt"),
)  # fmt: skip

"""Llama with Meta's own tensor names: pytorch-llama, llama2.c, minimind until April 2025."""

from dataclasses import replace

from ..rows.dialect import Container, Dialect
from ..rows.fields import MODERN
from ..rows.kinds import linear, mask, norm, row, table, tied

BLOCK = "layers.{layer}"
ARGS = {
    "dim": "model_dim", "n_layers": "num_blocks", "n_heads": "num_heads",
    "n_kv_heads": "num_kv_heads", "vocab_size": "vocab_size", "max_seq_len": "context_length",
    "dropout": "dropout",
}  # fmt: skip

META = Dialect(
    name="meta-llama",
    about="Meta's Llama, and classes with its tensor names",
    rows=(
        row("token_embedding/embedding : v d", "tok_embeddings.weight : v d"),
        *linear(
            "blocks/attn/qkv : layer d head qkv k",
            f"{BLOCK}.attention.{{qkv}} : (head k) d",
            "no",
        ),
        *linear("blocks/attn/out : layer head k d", f"{BLOCK}.attention.wo : d (head k)", "no"),
        mask(f"{BLOCK}.attention.mask : () () t t", written=False),
        *linear("blocks/mlp/gate_up : layer d glu f", f"{BLOCK}.feed_forward.{{glu}} : f d", "no"),
        *linear("blocks/mlp/down : layer f d", f"{BLOCK}.feed_forward.w2 : d f", "no"),
        *norm("blocks/norm1", f"{BLOCK}.attention_norm", "no"),
        *norm("blocks/norm2", f"{BLOCK}.ffn_norm", "no"),
        *norm("final_norm", "norm", "no"),
        tied("output.weight : v d"),
        table("rope.freqs? : r", "frequencies"),
        table("freqs_cos? : u r", "cos"),
        table("freqs_sin? : u r", "sin"),
    ),
    words={"qkv": ("wq wk wv",), "glu": ("gate=w1 up=w3",)},
    unsaid=MODERN,
    grouped=True,
    layout="interleaved",
)

DIALECTS = (
    META,
    replace(
        META,
        name="llama2c",
        about="llama2.c's Transformer",
        container=Container(
            "model", "optimizer", "model_args", ARGS, "iter_num", "best_val_loss",
            groups="matrices", mlp_multiple="multiple_of",
        ),
        twin="meta-llama",
        told_by=frozenset({"model_args", "iter_num"}),
    ),
)  # fmt: skip

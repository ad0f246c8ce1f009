"""The rows of litgpt's GPT, by the kind of its MLP and the order in its matrix of queries."""

from ..rows.kinds import Kind, linear, norm, optional, row, tied

BLOCK = "transformer.h.{layer}"
MLPS = {
    "fc": linear("blocks/mlp/up : layer d f", f"{BLOCK}.mlp.fc : f d", "?"),
    "gated": linear("blocks/mlp/gate_up : layer d glu f", f"{BLOCK}.mlp.{{glu}} : f d", "?"),
}
# Norms that a gated model may have: of queries and keys, and on the output of each part.
EXTRAS = (
    optional(
        (
            row("blocks/attn/q_norm/scale : layer k", f"{BLOCK}.attn.norm_q.weight : k"),
            row("blocks/attn/k_norm/scale : layer k", f"{BLOCK}.attn.norm_k.weight : k"),
        )
    ),
    optional(
        (
            *norm("blocks/out_norm1", f"{BLOCK}.post_attention_norm", "no"),
            *norm("blocks/out_norm2", f"{BLOCK}.post_mlp_norm", "no"),
        )
    ),
)
# Before 2025 the rows of queries, keys and values were those of one group after the other.
QKV = {"qkv": "(qkv head k)", "attn": "(head qkv k)"}


def rows(mlp: str, qkv: str) -> tuple[Kind, ...]:
    """The rows of the class with the MLP `mlp` and the matrix `qkv`, keys of the tables above."""
    qk_norms, out_norms = EXTRAS if mlp == "gated" else ((), ())
    return (
        tied("lm_head.weight : v d"),
        row("head/bias : v", "lm_head.bias? : v"),
        row("token_embedding/embedding : v d", "transformer.wte.weight : v d"),
        *norm("blocks/norm1", f"{BLOCK}.norm_1", "?"),
        *linear("blocks/attn/qkv : layer d head qkv k", f"{BLOCK}.attn.{qkv} : {QKV[qkv]} d", "?"),
        *linear("blocks/attn/out : layer head k d", f"{BLOCK}.attn.proj : d (head k)", "?"),
        *qk_norms,
        *norm("blocks/norm2", f"{BLOCK}.norm_2", "?", absent="?"),
        *MLPS[mlp],
        *linear("blocks/mlp/down : layer f d", f"{BLOCK}.mlp.proj : d f", "?"),
        *out_norms,
        *norm("final_norm", "transformer.ln_f", "?"),
    )

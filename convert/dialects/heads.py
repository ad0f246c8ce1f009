"""One module for each head, under whatever names."""

from convert import words
from convert.rows import USUAL, Dialect, Mask, linear

BLOCK = words.block("blocks")
HEAD = f"{BLOCK}.{words.choice(words.ATTENTION, 'mha')}{words.choice(words.HEADS, '.heads')}.{{head}}"

DIALECTS = (
    Dialect(
        name="heads",
        about="decoders with one module for each head",
        rows=(
            *words.embeddings("token_embedding", "position_embedding"),
            *(Mask(f"{HEAD}.{words.choice(words.MASKS, 'tril')} : {dims}", written=False) for dims in words.SQUARES),
            *linear("blocks/attn/qkv : layer d head qkv k", f"{HEAD}.{{qkv}} : k d", "?"),
            *words.out(BLOCK, "mha", "proj"),
            *words.mlp(BLOCK, "ffn", "net.0", "net.2"),
            *words.norms(BLOCK, "ln1", "ln2", "ln_f"),
            *words.head("lm_head"),
            *words.masks(BLOCK, "mha"),
        ),
        qkv=words.QKV,
        unsaid={**USUAL, "dropout": 0.2},
        beware=f"some versions divide by the root of model_dim, others of head_dim; {words.BEWARE}",
        family=True,
    ),
)

"""The lyric generator's GPT(vocab_size, context_length, model_dim, num_blocks, num_heads), one module for each head."""

from convert.rows import Dialect, Row

BLOCK = "transformer_blocks.{layer}"

DIALECT = Dialect(
    name="gpt",
    about="the lyric generator, GPT(vocab_size, context_length, model_dim, num_blocks, num_heads)",
    rows=(
        Row("token_embedding/embedding : v d", "token_embedding.weight : v d"),
        Row("pos_embedding/embedding : t d", "pos_embedding.weight : t d"),
        Row(
            "blocks/attn/{qkv}/kernel : layer d head k",
            f"{BLOCK}.mhsa.attention_heads.{{head}}.{{qkv}}_layer.weight : k d",
        ),
        Row("blocks/attn/out/kernel : layer head k d", f"{BLOCK}.mhsa.compute.weight : d (head k)"),
        Row("blocks/attn/out/bias : layer d", f"{BLOCK}.mhsa.compute.bias : d"),
        Row("blocks/mlp/up/kernel : layer d f", f"{BLOCK}.vanilla_nn.first_linear_layer.weight : f d"),
        Row("blocks/mlp/up/bias : layer f", f"{BLOCK}.vanilla_nn.first_linear_layer.bias : f"),
        Row("blocks/mlp/down/kernel : layer f d", f"{BLOCK}.vanilla_nn.second_linear_layer.weight : d f"),
        Row("blocks/mlp/down/bias : layer d", f"{BLOCK}.vanilla_nn.second_linear_layer.bias : d"),
        Row("blocks/norm1/scale : layer d", f"{BLOCK}.layer_norm_one.weight : d"),
        Row("blocks/norm1/bias : layer d", f"{BLOCK}.layer_norm_one.bias : d"),
        Row("blocks/norm2/scale : layer d", f"{BLOCK}.layer_norm_two.weight : d"),
        Row("blocks/norm2/bias : layer d", f"{BLOCK}.layer_norm_two.bias : d"),
        Row("final_norm/scale : d", "layer_norm_three.weight : d"),
        Row("final_norm/bias : d", "layer_norm_three.bias : d"),
        Row("head/kernel : d v", "vocab_projection.weight : v d"),
        Row("head/bias : v", "vocab_projection.bias : v"),
    ),
    spelling={"qkv": {"key": "key", "query": "query", "value": "value"}},  # the order in which a head lists them
    unsaid={
        "norm": "pre",
        "final_norm": True,
        "activation": "relu",
        "attention_scale": "head_dim",
        "attention_scale_by_layer": False,
        "norm_eps": 1e-5,
        "dropout": 0.2,
    },
    reference="convert.reference:GPT",
)

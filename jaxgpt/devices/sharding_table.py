"""The mesh axes that shard each parameter, by the end of its path."""

from jaxgpt.model.lora import A, B
from jaxgpt.model.matrices import matrix_of

# The mesh axes that shard each axis of a parameter, as far as they divide its size. A mesh axis may
# be listed for two axes of a parameter: it shards the first, or the second where it does not divide
# the first. So `tensor` shards the heads of keys and values; where it does not divide their number,
# it shards the width of each head, and every device along `tensor` gathers all heads to compute
# their attention.
SHARDING_TABLE: dict[str, tuple[tuple[str, ...], ...]] = {
    "token_embedding/embedding": (("tensor", "rest"), ("fsdp",)),
    "pos_embedding/embedding": (("rest",), ("fsdp",)),
    "blocks/attn/qkv/kernel": ((), ("fsdp",), ("tensor",), (), ("rest", "tensor")),
    "blocks/attn/qkv/bias": ((), ("tensor",), (), ("fsdp", "rest", "tensor")),
    # Norms over all heads together; norms of each head have only the first and the last of these
    # axes.
    "blocks/attn/q_norm/scale": ((), ("tensor",), (), ("fsdp", "rest")),
    "blocks/attn/q_norm/bias": ((), ("tensor",), (), ("fsdp", "rest")),
    "blocks/attn/k_norm/scale": ((), ("tensor",), (), ("fsdp", "rest")),
    "blocks/attn/k_norm/bias": ((), ("tensor",), (), ("fsdp", "rest")),
    "blocks/attn/out/kernel": ((), ("tensor",), ("rest",), ("fsdp",)),
    "blocks/mlp/up/kernel": ((), ("fsdp",), ("tensor", "rest")),
    "blocks/mlp/up/bias": ((), ("tensor", "rest", "fsdp")),
    "blocks/mlp/gate_up/kernel": ((), ("fsdp",), (), ("tensor", "rest")),
    "blocks/mlp/gate_up/bias": ((), (), ("tensor", "rest", "fsdp")),
    "blocks/mlp/down/kernel": ((), ("tensor", "rest"), ("fsdp",)),
    "head/kernel": (("fsdp",), ("tensor", "rest")),
    "head/bias": (("tensor", "rest", "fsdp"),),
    "blocks/attn/out/bias": ((), ("fsdp", "rest")),
    "blocks/mlp/down/bias": ((), ("fsdp", "rest")),
    "blocks/norm1/scale": ((), ("fsdp", "rest")),
    "blocks/norm1/bias": ((), ("fsdp", "rest")),
    "blocks/norm2/scale": ((), ("fsdp", "rest")),
    "blocks/norm2/bias": ((), ("fsdp", "rest")),
    "blocks/out_norm1/scale": ((), ("fsdp", "rest")),
    "blocks/out_norm1/bias": ((), ("fsdp", "rest")),
    "blocks/out_norm2/scale": ((), ("fsdp", "rest")),
    "blocks/out_norm2/bias": ((), ("fsdp", "rest")),
    "embedding_norm/scale": (("fsdp", "rest"),),
    "embedding_norm/bias": (("fsdp", "rest"),),
    "final_norm/scale": (("fsdp", "rest"),),
    "final_norm/bias": (("fsdp", "rest"),),
}
# Cross-attention has the parameters of self-attention, and norms of its own.
SHARDING_TABLE |= {
    name.replace(own, cross): axes
    for own, cross in (
        ("/attn/", "/cross_attn/"),
        ("/norm1/", "/cross_norm/"),
        ("/out_norm1/", "/cross_out_norm/"),
    )
    for name, axes in SHARDING_TABLE.items()
    if own in name
}
# Adapters are sharded like their kernel along the axes that they share, and not along their rank.
SHARDING_TABLE |= {
    f"{name}/{part}": (*(each for i, each in enumerate(axes) if i not in missing), ())
    for name, axes in SHARDING_TABLE.items()
    if (matrix := matrix_of(name))
    for part, missing in ((A, matrix.outputs), (B, matrix.inputs))
}

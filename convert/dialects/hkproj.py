"""The encoder-decoder of hkproj/pytorch-transformer.

Its norms divide by the standard deviation of n - 1. The oldest versions have biases in attention,
and one number in place of each norm's vectors.
"""

from ..names.pair_classes import Names, Side, pair
from ..rows.dialect import Container, Dialect
from ..rows.fields import ROOT_OF_WIDTH, USUAL

CLASS = Dialect(
    "hkproj",
    "the Transformer of hkproj/pytorch-transformer",
    rows=(),
    unsaid={
        **USUAL,
        "norm_std": "unbiased_plus_eps",
        "norm_eps": 1e-6,
        "embedding_scale": ROOT_OF_WIDTH,
        "dropout": 0.1,
    },
    container=Container(step="global_step"),
    beware="its older versions end with a log_softmax, which this model leaves out",
)
NAMES = Names(
    "q k v",
    "w_{qkv}",
    "w_o",
    "feed_forward_block.linear_1",
    "feed_forward_block.linear_2",
    norm="alpha bias",
)
ENCODER = Side(
    "encoder.layers.{layer}",
    {"blocks/attn": "self_attention_block"},
    {"blocks/norm1": "residual_connections.0.norm", "blocks/norm2": "residual_connections.1.norm"},
    embedding="src_embed.embedding",
    positions="src_pos.pe",
    final="encoder.norm",
)
DECODER = Side(
    "decoder.layers.{layer}",
    {"blocks/attn": "self_attention_block", "blocks/cross_attn": "cross_attention_block"},
    {
        "blocks/norm1": "residual_connections.0.norm",
        "blocks/cross_norm": "residual_connections.1.norm",
        "blocks/norm2": "residual_connections.2.norm",
    },
    embedding="tgt_embed.embedding",
    positions="tgt_pos.pe",
    final="decoder.norm",
    head="projection_layer.proj",
)

MODULES = "encoder decoder src_embed tgt_embed src_pos tgt_pos projection_layer"
PAIRS = (pair(CLASS, NAMES, ENCODER, DECODER, MODULES),)

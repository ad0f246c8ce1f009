"""The encoder-decoder of The Annotated Transformer, whose matrices of attention have numbers.

Its norms divide by the standard deviation of n - 1.
"""

from ..names.pair_classes import Names, Side, pair
from ..rows.dialect import Dialect
from ..rows.fields import ROOT_OF_WIDTH, USUAL

CLASS = Dialect(
    "annotated",
    "the model of The Annotated Transformer",
    rows=(),
    unsaid={
        **USUAL,
        "norm_std": "unbiased_plus_eps",
        "norm_eps": 1e-6,
        "embedding_scale": ROOT_OF_WIDTH,
        "dropout": 0.1,
    },
    beware="the class ends with a log_softmax, which this model leaves out",
)
NAMES = Names(
    "query=0 key=1 value=2",
    "linears.{qkv}",
    "linears.3",
    "feed_forward.w_1",
    "feed_forward.w_2",
    norm="a_2 b_2",
)
ENCODER = Side(
    "encoder.layers.{layer}",
    {"blocks/attn": "self_attn"},
    {"blocks/norm1": "sublayer.0.norm", "blocks/norm2": "sublayer.1.norm"},
    embedding="src_embed.0.lut",
    positions="src_embed.1.pe",
    final="encoder.norm",
)
DECODER = Side(
    "decoder.layers.{layer}",
    {"blocks/attn": "self_attn", "blocks/cross_attn": "src_attn"},
    {
        "blocks/norm1": "sublayer.0.norm",
        "blocks/cross_norm": "sublayer.1.norm",
        "blocks/norm2": "sublayer.2.norm",
    },
    embedding="tgt_embed.0.lut",
    positions="tgt_embed.1.pe",
    final="decoder.norm",
    head="generator.proj",
)

MODULES = "encoder decoder src_embed tgt_embed generator"
PAIRS = (pair(CLASS, NAMES, ENCODER, DECODER, MODULES),)

"""GPTs with the names and shapes of the reference class that compute something else.

Each differs in one way that no tensor shows and that `to-flax` does not assume.
"""

import torch
from torch import nn
from torch.nn import functional

from convert import reference

SIZES = (103, 17, 35, 3, 5)


class OtherEpsilon(reference.GPT):
    """An epsilon that is not torch's usual one."""

    def __init__(self):
        super().__init__(*SIZES)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 3e-6


class ScaledResidual(reference.GPT):
    """Branches that are divided by the root of their number."""

    def __init__(self):
        super().__init__(*SIZES)
        for block in self.transformer_blocks:
            block.__class__ = ScaledBlock


class ScaledBlock(reference.TransformerBlock):
    def forward(self, x):
        x = x + self.mhsa(self.layer_norm_one(x)) * 6**-0.5
        return x + self.vanilla_nn(self.layer_norm_two(x)) * 6**-0.5


class TanhGelu(reference.GPT):
    """The tanh form of GELU."""

    def __init__(self):
        super().__init__(*SIZES)
        for block in self.transformer_blocks:
            block.vanilla_nn.__class__ = TanhGeluNetwork


class TanhGeluNetwork(reference.VanillaNeuralNetwork):
    def forward(self, x):
        x = functional.gelu(self.first_linear_layer(x), approximate="tanh")
        return self.dropout(self.second_linear_layer(x))


class NormedTwice(reference.GPT):
    """A final norm that is applied twice."""

    def __init__(self):
        super().__init__(*SIZES)
        norm = self.layer_norm_three
        norm.register_forward_hook(
            lambda module, args, x: functional.layer_norm(x, (35,), module.weight, module.bias)
        )


class WidthScaled(reference.GPT):
    """Attention that is scaled by the width of the model, as in the ng-video-lecture."""

    def __init__(self):
        super().__init__(*SIZES)
        for block in self.transformer_blocks:
            for head in block.mhsa.attention_heads:
                head.query_layer.register_forward_hook(
                    lambda module, args, query: query * (7 / 35) ** 0.5
                )


class LatePositions(reference.GPT):
    """Positions that are added after the first norm instead of before it."""

    def __init__(self):
        super().__init__(*SIZES)
        first = self.transformer_blocks[0].layer_norm_one
        first.register_forward_hook(
            lambda module, args, x: x + self.pos_embedding(torch.arange(x.shape[1]))
        )

    def forward(self, tokens):
        x = self.transformer_blocks(self.token_embedding(tokens))
        return self.vocab_projection(self.layer_norm_three(x))


class EmbeddingDropoutScale(reference.GPT):
    """Embeddings that are divided by what dropout keeps, in evaluation too."""

    def __init__(self):
        super().__init__(*SIZES)
        self.token_embedding.register_forward_hook(lambda module, args, x: x / 0.9)


class RootEmbedding(reference.GPT):
    """Token embeddings that are multiplied by the root of their width."""

    def __init__(self):
        super().__init__(*SIZES)
        self.token_embedding.register_forward_hook(lambda module, args, x: x * 35**0.5)


class LastWithoutResidual(reference.GPT):
    """A last block whose second branch replaces the stream."""

    def __init__(self):
        super().__init__(*SIZES)
        self.transformer_blocks[-1].__class__ = BlockWithoutResidual


class BlockWithoutResidual(reference.TransformerBlock):
    def forward(self, x):
        x = x + self.mhsa(self.layer_norm_one(x))
        return self.vanilla_nn(self.layer_norm_two(x))


class Temperature(reference.GPT):
    """Logits that are divided by a temperature."""

    def __init__(self):
        super().__init__(*SIZES)
        self.vocab_projection.register_forward_hook(lambda module, args, x: x / 0.8)


# What follows agrees with the reference on full windows of usual ids, or with trained weights, or
# as it is built without arguments.


class PositionsFromTheEnd(reference.GPT):
    """Positions that are counted from the end of the context: seen only in a shorter text."""

    def __init__(self):
        super().__init__(*SIZES)

    def forward(self, tokens):
        positions = torch.arange(17 - tokens.shape[1], 17)
        x = self.token_embedding(tokens) + self.pos_embedding(positions)
        return self.vocab_projection(self.layer_norm_three(self.transformer_blocks(x)))


class Padded(reference.GPT):
    """Id 0 is padding, and adds nothing to the stream: seen only in a text that has it."""

    def __init__(self):
        super().__init__(*SIZES)
        self.token_embedding.register_forward_hook(
            lambda module, args, x: x * (args[0] != 0)[..., None]
        )


class WithOptions(reference.GPT):
    """A model that was trained with an option which its class has off by default."""

    def __init__(
        self, vocab_size, context_length, model_dim, num_blocks, num_heads, scale_embedding=False
    ):
        super().__init__(vocab_size, context_length, model_dim, num_blocks, num_heads)
        self.scale = model_dim**0.5 if scale_embedding else 1.0

    def forward(self, tokens):
        positions = torch.arange(tokens.shape[1])
        x = self.token_embedding(tokens) * self.scale + self.pos_embedding(positions)
        return self.vocab_projection(self.layer_norm_three(self.transformer_blocks(x)))


class WithConfig(WithOptions):
    """The same option in a dict that has a default for it."""

    def __init__(self, config):
        sizes = ("vocab_size", "context_length", "model_dim", "num_blocks", "num_heads")
        super().__init__(*(config[name] for name in sizes), config.get("scale_embedding", False))

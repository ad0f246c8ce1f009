"""GPTs whose files look like those of the reference class, while they compute something else."""

import torch
from torch import nn
from torch.nn import functional

from convert import reference


class GeluNetwork(reference.VanillaNeuralNetwork):
    def forward(self, x):
        return self.dropout(self.second_linear_layer(functional.gelu(self.first_linear_layer(x))))


class Gelu(reference.GPT):
    """An activation that no tensor shows."""

    def __init__(self, vocab_size, context_length, model_dim, num_blocks, num_heads):
        super().__init__(vocab_size, context_length, model_dim, num_blocks, num_heads)
        for block in self.transformer_blocks:
            block.vanilla_nn.__class__ = GeluNetwork


class PostNorm(Gelu):
    """Two choices that no tensor shows."""

    def __init__(self, vocab_size, context_length, model_dim, num_blocks, num_heads):
        super().__init__(vocab_size, context_length, model_dim, num_blocks, num_heads)
        for block in self.transformer_blocks:
            block.__class__ = PostBlock


class PostBlock(reference.TransformerBlock):
    def forward(self, x):
        x = self.layer_norm_one(x + self.mhsa(x))
        return self.layer_norm_two(x + self.vanilla_nn(x))


class Scaled(reference.GPT):
    """Embeddings that are multiplied by the root of their width, as in the first Transformer."""

    def __init__(self, vocab_size, context_length, model_dim, num_blocks, num_heads):
        super().__init__(vocab_size, context_length, model_dim, num_blocks, num_heads)
        self.token_embedding.register_forward_hook(lambda module, args, x: x * model_dim**0.5)


class RotaryHead(reference.SingleHeadAttention):
    def forward(self, x):
        key, query, value = (
            turned(self.key_layer(x)),
            turned(self.query_layer(x)),
            self.value_layer(x),
        )
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)


def turned(x):
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1])[:, None] * 10000.0 ** -(torch.arange(half) / half)
    one, other = x[..., :half], x[..., half : 2 * half]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([one * cos - other * sin, other * cos + one * sin, x[..., 2 * half :]], -1)


class Rotary(reference.GPT):
    """Rotary positions without a table, which leave no tensor and no name."""

    def __init__(self, vocab_size, context_length, model_dim, num_blocks, num_heads):
        super().__init__(vocab_size, context_length, model_dim, num_blocks, num_heads)
        del self.pos_embedding
        for block in self.transformer_blocks:
            for head in block.mhsa.attention_heads:
                head.__class__ = RotaryHead

    def pos_embedding(self, positions):
        return 0.0


class Skikt(nn.Module):
    """A block under names that no dialect knows."""

    def __init__(self, width, heads):
        super().__init__()
        self.b, self.a = nn.LayerNorm(width), nn.LayerNorm(width)
        names = ("query", "key", "value", "ut")
        self.sinne = nn.ModuleDict({name: nn.Linear(width, width) for name in names})
        up, down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.snabb = nn.ModuleDict({"a": up, "b": down})
        self.heads = heads

    def forward(self, x):
        y = self.b(x)
        parts = (self.sinne[name](y) for name in ("query", "key", "value"))
        heads = (part.unflatten(-1, (self.heads, -1)) for part in parts)
        query, key, value = (part.transpose(1, 2) for part in heads)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.sinne["ut"](mixed.transpose(1, 2).flatten(2))
        return x + self.snabb["b"](functional.relu(self.snabb["a"](self.a(x))))


class Nameless(nn.Module):
    """A GPT whose roles only its structure tells."""

    def __init__(self, vocab_size, context_length, model_dim, num_blocks, num_heads):
        super().__init__()
        self.ord = nn.Embedding(vocab_size, model_dim)
        self.plats = nn.Embedding(context_length, model_dim)
        self.lagen = nn.ModuleList(Skikt(model_dim, num_heads) for _ in range(num_blocks))
        self.jamna = nn.LayerNorm(model_dim)
        self.ut = nn.Linear(model_dim, vocab_size)

    def forward(self, idx):
        x = self.ord(idx) + self.plats(torch.arange(idx.shape[1]))
        for block in self.lagen:
            x = block(x)
        return self.ut(self.jamna(x))

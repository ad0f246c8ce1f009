"""The reference GPT made fast in PyTorch: fused projections and attention, and a cache of keys and values."""

import torch
from torch import Tensor
from torch.nn import functional

from jaxgpt.config import ModelConfig

Cached = tuple[Tensor, Tensor]  # keys and values (B, heads, context, width) of a layer


class Block(torch.nn.Module):
    """Attention and MLP, each after a norm and added to the stream."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.model_dim
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.qkv = torch.nn.Linear(width, 3 * width, bias=False)
        self.out = torch.nn.Linear(width, width)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)
        self.heads, self.dropout = config.num_heads, config.dropout

    def forward(self, x: Tensor, cached: Cached | None, at: int) -> Tensor:
        parts = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = parts
        if cached is not None:
            end = at + x.shape[1]
            for place, new in zip(cached, (k, v), strict=True):
                place[:, :, at:end] = new
            k, v = (place[:, :, :end] for place in cached)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=x.shape[1] > 1)
        x = x + self.dropped(self.out(mixed.transpose(1, 2).flatten(2)))
        return x + self.dropped(self.down(functional.relu(self.up(self.norm2(x)))))

    def dropped(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)


class Gpt(torch.nn.Module):
    """A model of the sizes of `config`, with learned positions."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.tokens = torch.nn.Embedding(config.vocab_size, config.model_dim)
        self.positions = torch.nn.Embedding(config.context_length, config.model_dim)
        self.blocks = torch.nn.ModuleList(Block(config) for _ in range(config.num_blocks))
        self.norm = torch.nn.LayerNorm(config.model_dim)
        self.head = torch.nn.Linear(config.model_dim, config.vocab_size)

    def forward(self, ids: Tensor, cache: list[Cached] | None = None, at: int = 0) -> Tensor:
        x = self.tokens(ids) + self.positions.weight[at : at + ids.shape[1]]
        for layer, block in enumerate(self.blocks):
            x = block(x, cache[layer] if cache else None, at)
        return self.head(self.norm(x))

    @torch.inference_mode()
    def write(self, rows: int, prompt: int, new: int) -> None:
        """Draw `new` tokens after `prompt` zeros in each of `rows`."""
        config = self.config
        shape = (rows, config.num_heads, config.context_length, config.head_dim)
        cache = [(torch.empty(shape), torch.empty(shape)) for _ in self.blocks]
        ids, at = torch.zeros(rows, prompt, dtype=torch.int64), 0
        for _ in range(new):
            logits = self(ids, cache, at)[:, -1]
            at += ids.shape[1]
            ids = torch.multinomial(logits.softmax(dim=-1), 1)

"""A small GPT in torch as users write them, for comparison with the same model in JAX."""

import math

import torch
from torch import nn

SIZES = {"vocabulary": 19, "context": 12, "width": 16, "heads": 2, "layers": 2}


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, time, width = x.shape
        parts = self.c_attn(self.ln_1(x)).split(width, dim=2)
        q, k, v = (p.view(rows, time, self.heads, -1).transpose(1, 2) for p in parts)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        hidden = torch.ones(time, time, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(hidden, -math.inf).softmax(-1) @ v
        x = x + self.c_proj(mixed.transpose(1, 2).reshape(rows, time, width))
        return x + self.down(torch.relu(self.up(self.ln_2(x))))


class SmallGPT(nn.Module):
    """Ids (B, T) -> logits (B, T, V); norms begin as ones and zeros, and biases as zeros."""

    def __init__(self) -> None:
        super().__init__()
        width = SIZES["width"]
        self.wte = nn.Embedding(SIZES["vocabulary"], width)
        self.wpe = nn.Embedding(SIZES["context"], width)
        self.h = nn.ModuleList(Block(width, SIZES["heads"]) for _ in range(SIZES["layers"]))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, SIZES["vocabulary"], bias=False)
        for part in self.modules():
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))

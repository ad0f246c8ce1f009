"""A decoder with grouped queries whose config has defaults, and relatives that compute what the
tensors do not show."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass
class Config:
    vocab_size: int = 30_000
    n_layers: int = 12
    dim: int = 768
    n_heads: int = 12
    n_kv_heads: int = 3
    ffn_dim: int = 3072
    window: int = 100


class Mix(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg, self.width = cfg, cfg.dim // cfg.n_heads
        self.q_proj = nn.Linear(cfg.dim, cfg.n_heads * self.width, bias=False)
        self.k_proj = nn.Linear(cfg.dim, cfg.n_kv_heads * self.width, bias=False)
        self.v_proj = nn.Linear(cfg.dim, cfg.n_kv_heads * self.width, bias=False)
        self.o_proj = nn.Linear(cfg.dim, cfg.dim, bias=False)

    def forward(self, x, seen):
        each = self.q_proj, self.k_proj, self.v_proj
        q, k, v = (made(x).unflatten(-1, (-1, self.width)).transpose(1, 2) for made in each)
        mixed = functional.scaled_dot_product_attention(q, k, v, seen, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class Gated(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.gate_proj = nn.Linear(cfg.dim, cfg.ffn_dim, bias=False)
        self.up_proj = nn.Linear(cfg.dim, cfg.ffn_dim, bias=False)
        self.down_proj = nn.Linear(cfg.ffn_dim, cfg.dim, bias=False)

    def act(self, x):
        return functional.silu(x)

    def forward(self, x):
        return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, cfg, gated):
        super().__init__()
        self.attn_norm, self.attn = nn.RMSNorm(cfg.dim, eps=1e-6), Mix(cfg)
        self.ffn_norm, self.ffn = nn.RMSNorm(cfg.dim, eps=1e-6), gated(cfg)

    def forward(self, x, seen):
        x = x + self.attn(self.attn_norm(x), seen)
        return x + self.ffn(self.ffn_norm(x))


class Grouped(nn.Module):
    """A decoder with grouped queries in a window, and no positions."""

    gated = Gated

    def __init__(self, cfg: Config):
        super().__init__()
        self.window = cfg.window
        self.embed = nn.Embedding(cfg.vocab_size, cfg.dim)
        self.blocks = nn.ModuleList([Block(cfg, self.gated) for _ in range(cfg.n_layers)])
        self.norm = nn.RMSNorm(cfg.dim, eps=1e-6)
        self.lm_head = nn.Linear(cfg.dim, cfg.vocab_size, bias=False)

    def seen(self, ids):
        at = torch.arange(ids.shape[1])
        behind = at[:, None] - at
        return ((behind >= 0) & (behind < self.window))[None, None]

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, self.seen(ids))
        return self.lm_head(self.norm(x))


class Padded(Grouped):
    """It hides id 0 from every position, as padding."""

    def seen(self, ids):
        itself = torch.eye(ids.shape[1], dtype=torch.bool)
        return super().seen(ids) & ((ids != 0)[:, None, None] | itself)


class Uncausal(Grouped):
    """It hides nothing, not even the future."""

    def seen(self, ids):
        return torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool)


class SigmoidGated(Gated):
    def act(self, x):
        return torch.sigmoid(x)


class Sigmoid(Grouped):
    """Its gates are sigmoids."""

    gated = SigmoidGated


class Undivided(Mix):
    """Its matrices are as wide as the model, whatever the number of heads."""

    def __init__(self, cfg):
        super().__init__(cfg)
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(self, name, nn.Linear(cfg.dim, cfg.dim, bias=False))

    def forward(self, x, seen):
        x = x.view(*x.shape[:2], self.cfg.n_heads, self.width).flatten(2)
        return super().forward(x, seen)


class EqualHeads(Grouped):
    """Its number of heads shows in no shape, and the default does not divide its width."""

    def __init__(self, cfg: Config):
        super().__init__(cfg)
        for block in self.blocks:
            block.attn = Undivided(cfg)


class Echo(nn.Module):
    """A decoder whose memory is its own embedded text."""

    def __init__(self):
        super().__init__()
        self.embedding, self.place = nn.Embedding(61, 32), nn.Embedding(16, 32)
        layer = nn.TransformerDecoderLayer(32, 4, 64, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, 2)
        self.fc_out = nn.Linear(32, 61)

    def forward(self, ids):
        x = self.embedding(ids) + self.place(torch.arange(ids.shape[1]))
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1], dtype=x.dtype)
        return self.fc_out(self.decoder(x, x, tgt_mask=mask))

"""A script in the style of a lecture: sizes are globals, heads keep masks, and the script trains when it is run."""

import torch
from torch import nn
from torch.nn import functional

block_size = 17
n_embd = 35
n_head = 5
n_layer = 3
dropout = 0.2
vocab_size = 103
device = "meta"  # as wrong here as cuda is on another machine


class Head(nn.Module):
    def __init__(self, head_size):
        super().__init__()
        self.key = nn.Linear(n_embd, head_size, bias=False)
        self.query = nn.Linear(n_embd, head_size, bias=False)
        self.value = nn.Linear(n_embd, head_size, bias=False)
        self.register_buffer("tril", torch.tril(torch.ones(block_size, block_size)))

    def forward(self, x):
        T, C = x.shape[1:]
        scores = (
            self.query(x) @ self.key(x).transpose(-2, -1) * C**-0.5
        )  # not the width of the head
        scores = scores.masked_fill(self.tril[:T, :T] == 0, float("-inf"))
        return functional.softmax(scores, dim=-1) @ self.value(x)


class MultiHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(Head(n_embd // n_head) for _ in range(n_head))
        self.proj = nn.Linear(n_embd, n_embd)

    def forward(self, x):
        return self.proj(torch.cat([head(x) for head in self.heads], dim=-1))


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(n_embd, 4 * n_embd), nn.ReLU(), nn.Linear(4 * n_embd, n_embd)
        )

    def forward(self, x):
        return self.net(x)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.sa, self.ffwd = MultiHead(), FeedForward()
        self.ln1, self.ln2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)

    def forward(self, x):
        x = x + self.sa(self.ln1(x))
        return x + self.ffwd(self.ln2(x))


class LectureGPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.token_embedding_table = nn.Embedding(vocab_size, n_embd)
        self.position_embedding_table = nn.Embedding(block_size, n_embd)
        self.blocks = nn.Sequential(*(Block() for _ in range(n_layer)))
        self.ln_f = nn.LayerNorm(n_embd)
        self.lm_head = nn.Linear(n_embd, vocab_size)

    def forward(self, idx, targets=None):
        x = self.token_embedding_table(idx) + self.position_embedding_table(positions_of(idx))
        logits = self.lm_head(self.ln_f(self.blocks(x)))
        if targets is None:
            return logits, None
        rows = logits.view(-1, vocab_size)
        return rows, functional.cross_entropy(rows, targets.view(-1))


raise SystemExit("it trains for an hour")


def positions_of(idx):
    return torch.arange(idx.shape[1], device=device)


def sample(model=trained):  # noqa: F821
    raise NotImplementedError

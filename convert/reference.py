"""The lyric generator's GPT in PyTorch, against which the Flax model is checked. Imports no JAX.

Its modules have the names and the order of those in files of this class.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class SingleHeadAttention(nn.Module):
    def __init__(self, model_dim: int, head_dim: int):
        super().__init__()
        self.key_layer = nn.Linear(model_dim, head_dim, bias=False)
        self.query_layer = nn.Linear(model_dim, head_dim, bias=False)
        self.value_layer = nn.Linear(model_dim, head_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        key, query, value = self.key_layer(x), self.query_layer(x), self.value_layer(x)
        scores = query @ key.transpose(-2, -1) * key.shape[-1] ** -0.5
        length = x.shape[1]
        future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        return functional.softmax(scores.masked_fill(future, float("-inf")), dim=-1) @ value


class MultiHeadedSelfAttention(nn.Module):
    def __init__(self, model_dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.attention_heads = nn.ModuleList(
            SingleHeadAttention(model_dim, model_dim // num_heads) for _ in range(num_heads)
        )
        self.compute = nn.Linear(model_dim, model_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(
            self.compute(torch.cat([head(x) for head in self.attention_heads], dim=-1))
        )


class VanillaNeuralNetwork(nn.Module):
    def __init__(self, model_dim: int, dropout: float):
        super().__init__()
        self.first_linear_layer = nn.Linear(model_dim, 4 * model_dim)
        self.second_linear_layer = nn.Linear(4 * model_dim, model_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.second_linear_layer(functional.relu(self.first_linear_layer(x))))


class TransformerBlock(nn.Module):
    def __init__(self, model_dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.mhsa = MultiHeadedSelfAttention(model_dim, num_heads, dropout)
        self.vanilla_nn = VanillaNeuralNetwork(model_dim, dropout)
        self.layer_norm_one = nn.LayerNorm(model_dim)
        self.layer_norm_two = nn.LayerNorm(model_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mhsa(self.layer_norm_one(x))
        return x + self.vanilla_nn(self.layer_norm_two(x))


class GPT(nn.Module):
    """int ids (B, T) -> logits (B, T, V)."""

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        model_dim: int,
        num_blocks: int,
        num_heads: int,
        dropout: float = 0.2,
    ):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, model_dim)
        self.pos_embedding = nn.Embedding(context_length, model_dim)
        self.transformer_blocks = nn.Sequential(
            *(TransformerBlock(model_dim, num_heads, dropout) for _ in range(num_blocks))
        )
        self.layer_norm_three = nn.LayerNorm(model_dim)
        self.vocab_projection = nn.Linear(model_dim, vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.token_embedding(tokens) + self.pos_embedding(positions)
        return self.vocab_projection(self.layer_norm_three(self.transformer_blocks(x)))


@torch.no_grad()
def generate(
    model: GPT,
    new_chars: int,
    context: Tensor,
    context_length: int,
    int_to_char: Sequence[str] | Mapping[int, str],
    greedy: bool = False,
) -> str:
    """`new_chars` characters after `context` (1, T).

    The model sees the last `context_length` characters so far.
    """
    text = []
    for _ in range(new_chars):
        logits = model(context[:, -context_length:])[:, -1]
        if greedy:
            chosen = logits.argmax(dim=-1, keepdim=True)
        else:
            chosen = torch.multinomial(functional.softmax(logits, dim=-1), num_samples=1)
        context = torch.cat([context, chosen], dim=1)
        text.append(int_to_char[int(chosen)])
    return "".join(text)

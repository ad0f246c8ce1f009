"""Speed of the block of Llama at the sizes of the lyric generator: ours against the same in torch.

    python -m tests.bench.modern [ROUNDS]

Rotary positions, RMSNorm, SwiGLU, 6 query heads that share 2 key heads, no dropout. In training, torch has its fused
attention and AdamW, in eager mode and compiled; the faster counts. In generation, 127 tokens from one, torch has a
hand-written cache of keys and values. Rounds alternate, so that a machine that slows down slows all of them; medians
of the ratios are printed. Each framework has a process of its own for each of the two.
"""

import dataclasses

import torch
from torch.nn import functional

import jaxgpt
from jaxgpt.config import ModelConfig
from jaxgpt.devices.cpu import make_devices
from tests.bench import rounds
from tests.bench.training import CONFIG, Racers, in_torch, ours, race

MODEL = ModelConfig(
    104, 128, 252, 6, 6,
    num_kv_heads=2, positions="rotary", norm_kind="rms", norm_bias=False, mlp_gated=True,
    activation="silu", attention_out_bias=False, mlp_bias=False, head_bias=False, dropout=0.0,
)  # fmt: skip
NEW = 127
Cached = tuple[torch.Tensor, torch.Tensor]  # keys and values (B, M, S, H) of a layer


class Attention(torch.nn.Module):
    """Grouped queries, rotated by halves, with torch's fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = MODEL.num_heads, MODEL.num_kv_heads, MODEL.num_kv_heads
        width = MODEL.head_dim
        self.qkv = torch.nn.Linear(MODEL.model_dim, sum(self.heads) * width, bias=False)
        self.out = torch.nn.Linear(MODEL.num_heads * width, MODEL.model_dim, bias=False)

    def forward(
        self, x: torch.Tensor, turn: Cached, cached: Cached | None, at: int
    ) -> torch.Tensor:
        parts = self.qkv(x).unflatten(-1, (sum(self.heads), -1)).transpose(1, 2)
        q, k, v = parts.split(self.heads, dim=1)
        q, k = rotated(q, *turn), rotated(k, *turn)
        if cached is not None:
            for store, new in zip(cached, (k, v), strict=True):
                store[:, :, at] = new[:, :, 0]
            k, v = (store[:, :, : at + 1] for store in cached)
        mixed = functional.scaled_dot_product_attention(
            q, k, v, is_causal=cached is None, enable_gqa=True
        )
        return self.out(mixed.transpose(1, 2).flatten(2))


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.gate_up = torch.nn.Linear(MODEL.model_dim, 2 * MODEL.mlp_dim, bias=False)
        self.down = torch.nn.Linear(MODEL.mlp_dim, MODEL.model_dim, bias=False)
        self.norm1, self.norm2 = (torch.nn.RMSNorm(MODEL.model_dim, 1e-5) for _ in range(2))

    def forward(
        self, x: torch.Tensor, turn: Cached, cached: Cached | None, at: int
    ) -> torch.Tensor:
        x = x + self.attention(self.norm1(x), turn, cached, at)
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.down(functional.silu(gate) * up)


class Llama(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(MODEL.vocab_size, MODEL.model_dim)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(MODEL.num_blocks))
        self.norm = torch.nn.RMSNorm(MODEL.model_dim, 1e-5)
        self.head = torch.nn.Linear(MODEL.model_dim, MODEL.vocab_size, bias=False)
        half = MODEL.head_dim // 2
        angles = torch.arange(MODEL.context_length)[:, None] * 1e4 ** -(torch.arange(half) / half)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(
        self, ids: torch.Tensor, cache: list[Cached] | None = None, at: int = 0
    ) -> torch.Tensor:
        x, end = self.embedding(ids), at + ids.shape[1]
        turn = self.cos[at:end], self.sin[at:end]
        for layer, block in enumerate(self.blocks):
            x = block(x, turn, cache[layer] if cache else None, at)
        return self.head(self.norm(x))


def our_training() -> Racers:
    return {"jaxgpt": ours(dataclasses.replace(CONFIG, model=MODEL))["jaxgpt"]}


def torch_training() -> Racers:
    torch.manual_seed(0)
    return {
        "torch": in_torch(Llama(), fused=True),
        "torch.compile": in_torch(torch.compile(Llama()), fused=True),
    }


def our_generation() -> Racers:
    make_devices()
    model = jaxgpt.GPT(MODEL)
    return {"jaxgpt": lambda: list(jaxgpt.generate(model, [0], NEW))}


def torch_generation() -> Racers:
    model = Llama().eval()

    @torch.inference_mode()
    def write() -> None:
        shape = (1, MODEL.num_kv_heads, MODEL.context_length, MODEL.head_dim)
        cache = [(torch.empty(shape), torch.empty(shape)) for _ in range(MODEL.num_blocks)]
        ids = torch.zeros(1, 1, dtype=torch.int64)
        for at in range(NEW):
            logits = model(ids, cache, at)[:, -1]
            ids = torch.multinomial(logits.softmax(dim=-1), 1)

    return {"torch with a cache": write}


def main() -> None:
    count = rounds(__doc__)
    print("training")
    training = [("jaxgpt", "torch"), ("jaxgpt", "torch.compile")]
    race((our_training, torch_training), training, count)
    print("generation")
    race((our_generation, torch_generation), [("jaxgpt", "torch with a cache")], count, NEW)


if __name__ == "__main__":
    main()

"""Modern decoders under names and in styles of their own: bare parameters, einsums, complex numbers."""

import torch
from torch import nn
from torch.nn import functional

from jaxgpt.config import ModelConfig
from tests.classes.general import General


def turned(x, freqs):
    """Heads x (B, T, H, h) turned as complex numbers."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * freqs[: x.shape[1], None]).flatten(3).type_as(x)


class Kvarn(nn.Module):
    """A block of bare parameters: gated, with grouped queries, and RMSNorms by machine epsilon."""

    def __init__(self, width, heads, groups, hidden):
        super().__init__()
        size = width // heads
        self.w_in = nn.Parameter(torch.empty(width, (heads + 2 * groups) * size))
        self.w_ut = nn.Parameter(torch.empty(heads * size, width))
        self.grind, self.lyft = (nn.Parameter(torch.empty(width, hidden)) for _ in range(2))
        self.sank = nn.Parameter(torch.empty(hidden, width))
        self.skala_a, self.skala_b = (nn.Parameter(torch.ones(width)) for _ in range(2))
        self.heads, self.groups, self.size = heads, groups, size

    def mix(self, x, freqs):
        sizes = [n * self.size for n in (self.heads, self.groups, self.groups)]
        q, k, v = (y.unflatten(-1, (-1, self.size)) for y in (x @ self.w_in).split(sizes, -1))
        q, k = (turned(y, freqs).transpose(1, 2) for y in (q, k))
        y = functional.scaled_dot_product_attention(
            q, k, v.transpose(1, 2), is_causal=True, enable_gqa=True
        )
        return y.transpose(1, 2).flatten(2) @ self.w_ut

    def push(self, x):
        return (functional.silu(x @ self.grind) * (x @ self.lyft)) @ self.sank

    def forward(self, x, freqs):
        x = x + self.mix(functional.rms_norm(x, x.shape[-1:], self.skala_a), freqs)
        return x + self.push(functional.rms_norm(x, x.shape[-1:], self.skala_b))


class Kvarnar(nn.Module):
    """A decoder of such blocks, with a tied head and a theta that no config names."""

    block = Kvarn

    def __init__(self, ord=61, bredd=32, lager=2, huvuden=4, grupper=2, max_seq_len=16):
        super().__init__()
        self.rader = nn.Parameter(torch.empty(ord, bredd))
        self.lager = nn.ModuleList(self.block(bredd, huvuden, grupper, 44) for _ in range(lager))
        self.sista = nn.Parameter(torch.ones(bredd))
        size = bredd // huvuden
        angles = 50000.0 ** (-torch.arange(0, size, 2).float() / size)
        table = torch.outer(torch.arange(max_seq_len).float(), angles)
        self.freqs = torch.polar(torch.ones_like(table), table)

    def forward(self, ids):
        x = functional.embedding(ids, self.rader) * self.rader.shape[1] ** 0.5
        for block in self.lager:
            x = block(x, self.freqs)
        return functional.rms_norm(x, x.shape[-1:], self.sista) @ self.rader.T


class OddKvarn(Kvarn):
    """A block that does two things that no field describes: it squares values and halves a residual."""

    def push(self, x):
        return super().push(x) ** 2

    def forward(self, x, freqs):
        x = x / 2 + self.mix(functional.rms_norm(x, x.shape[-1:], self.skala_a), freqs)
        return x + self.push(functional.rms_norm(x, x.shape[-1:], self.skala_b))


class OddKvarnar(Kvarnar):
    block = OddKvarn


class TwiceKvarn(Kvarn):
    def push(self, x):
        return 2 * super().push(x)


class LateKvarnar(Kvarnar):
    """The same but for its second block, which adds its MLP twice."""

    def __init__(self, max_seq_len=16):
        super().__init__(max_seq_len=max_seq_len)
        self.lager[1].__class__ = TwiceKvarn


LLAMA = {
    "token": "embed_tokens", "blocks": "layers", "norm1": "input_layernorm", "norm2": "post_attention_layernorm",
    "attention": "self_attn", "query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj",
    "gate": "gate_proj", "up": "up_proj", "down": "down_proj", "final_norm": "norm", "head": "lm_head",
}  # fmt: skip
FIELDS = {
    "positions": "rotary", "rotary_layout": "interleaved", "rotary_theta": 50000.0, "norm_kind": "rms",
    "norm_eps": 3e-6, "activation": "silu", "attention_softcap": 20.0, "logit_softcap": 15.0, "window": 5,
    "attention_scale": 0.3, "embedding_scale": 2.0, "logit_scale": 0.5,
}  # fmt: skip


def _named(names):
    """A decoder of the fields FIELDS whose parts have these names."""
    shown = {
        "mlp_gated": True,
        "norm_bias": False,
        "mlp_bias": False,
        "head_bias": False,
        "attention_out_bias": False,
    }
    sizes = {
        "vocab_size": 41,
        "context_length": 13,
        "model_dim": 24,
        "num_blocks": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
    }
    return General(
        ModelConfig(**sizes, **shown, **FIELDS, mlp_dim=20, head_dim=8, dropout=0.0), names
    )


def llama():
    """A class with the names of Llama and other settings in every field that no tensor shows."""
    return _named(LLAMA)


def endless_llama():
    """The same class, whose files do not show the context length."""
    module = llama()
    del module.max_seq_len
    return module


def endless_stranger():
    """The same class under names that no dialect knows."""
    module = _named({part: f"q{word[::-1]}" for part, word in LLAMA.items()})
    del module.max_seq_len
    return module

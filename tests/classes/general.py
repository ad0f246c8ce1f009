"""A decoder in torch with any setting of the fields, under any names of its parts.

Random settings and names turn it into classes that nobody has seen.
"""

import math

import torch
from torch import nn
from torch.nn import functional

# The parts of a class, and the names that they have unless others are given.
NAMES = {
    "token": "tok", "positions": "pos", "embedding_norm": "norm_in", "blocks": "blocks", "norm1": "n1", "norm2": "n2",
    "out_norm1": "o1", "out_norm2": "o2", "attention": "attn", "query": "wq", "key": "wk", "value": "wv",
    "fused": "qkv", "out": "wo", "q_norm": "qn", "k_norm": "kn", "mlp": "mlp", "gate": "gate", "up": "up",
    "down": "down", "gate_up": "both", "final_norm": "norm", "head": "head",
}  # fmt: skip
ACTIVATIONS = {
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x) ** 2,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


class Norm(nn.Module):
    """Any of the norms, as its fields say."""

    def __init__(self, c, width):
        super().__init__()
        self.c, self.width = c, width
        if c.norm_weight:
            self.weight = nn.Parameter(torch.ones(width))
        if c.norm_bias:
            self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        c = self.c
        if c.norm_kind == "rms" and c.norm_eps == "dtype":
            x = functional.rms_norm(x, (self.width,))
        elif c.norm_kind == "rms":
            x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + c.norm_eps)
        elif c.norm_std == "unbiased_plus_eps":
            x = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + c.norm_eps)
        else:
            x = functional.layer_norm(x, (self.width,), eps=c.norm_eps)
        if c.norm_weight:
            x = x * (1 + self.weight) if c.norm_unit_offset else x * self.weight
        return x + self.bias if c.norm_bias else x


def angles(c, layer, time):
    width = round(c.rotary_fraction * c.head_dim)
    theta = c.by_layer("rotary_theta")[layer]
    return torch.arange(time)[:, None] * theta ** (-torch.arange(0, width, 2) / width)


def turned(c, x, angle):
    """x (B, H, T, h) turned by angle (T, r / 2)."""
    width = 2 * angle.shape[1]
    x, rest = x[..., :width], x[..., width:]
    cos, sin = angle.cos(), angle.sin()
    if c.rotary_layout == "interleaved":
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
        x = torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2)
    else:
        a, b = x.chunk(2, -1)
        x = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    return torch.cat([x, rest], -1)


def slopes(heads):
    power = 2 ** math.ceil(math.log2(heads))
    all_ = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    return torch.tensor((all_ if power == heads else all_[1::2] + all_[0::2])[:heads])


class Attention(nn.Module):
    def __init__(self, c, names, layer, fused):
        super().__init__()
        self.c, self.names, self.layer, self.fused = c, names, layer, fused
        inner, keys = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        if fused:
            self.add_module(
                names["fused"], nn.Linear(c.model_dim, inner + 2 * keys, bias=c.qkv_bias)
            )
        else:
            for part, width in (("query", inner), ("key", keys), ("value", keys)):
                self.add_module(names[part], nn.Linear(c.model_dim, width, bias=c.qkv_bias))
        if c.qk_norm != "none" and c.norm_weight:
            full = c.qk_norm == "full_width"
            self.add_module(names["q_norm"], Norm(c, inner if full else c.head_dim))
            self.add_module(names["k_norm"], Norm(c, keys if full else c.head_dim))
        self.add_module(names["out"], nn.Linear(inner, c.model_dim, bias=c.attention_out_bias))

    def part(self, name):
        return getattr(self, self.names[name])

    def normed(self, name, x):
        return self.part(name)(x) if self.c.norm_weight else Norm(self.c, x.shape[-1])(x)

    def forward(self, x):
        c, time = self.c, x.shape[1]
        widths = [c.num_heads * c.head_dim, *[c.num_kv_heads * c.head_dim] * 2]
        if self.fused:
            q, k, v = self.part("fused")(x).split(widths, -1)
        else:
            q, k, v = (self.part(name)(x) for name in ("query", "key", "value"))
        if c.qk_norm == "full_width":
            q, k = self.normed("q_norm", q), self.normed("k_norm", k)
        q, k, v = (y.unflatten(-1, (-1, c.head_dim)).transpose(1, 2) for y in (q, k, v))
        if c.qk_norm == "before_rotary":
            q, k = self.normed("q_norm", q), self.normed("k_norm", k)
        if c.positions == "rotary":
            angle = angles(c, self.layer, time)
            q, k = turned(c, q, angle), turned(c, k, angle)
        if c.qk_norm == "after_rotary":
            q, k = self.normed("q_norm", q), self.normed("k_norm", k)
        k, v = (y.repeat_interleave(c.num_heads // c.num_kv_heads, 1) for y in (k, v))
        named = {"head_dim": c.head_dim**-0.5, "model_dim": c.model_dim**-0.5, "none": 1.0}
        scale = named.get(c.attention_scale, c.attention_scale)
        scale = scale / (self.layer + 1) if c.attention_scale_by_layer else scale
        scores = q @ k.transpose(-1, -2) * scale
        if c.attention_softcap:
            scores = c.attention_softcap * torch.tanh(scores / c.attention_softcap)
        distance = torch.arange(time)[:, None] - torch.arange(time)
        if c.positions == "alibi":
            scores = scores - slopes(c.num_heads)[:, None, None] * distance
        window = c.by_layer("window")[self.layer] or time
        scores = scores.masked_fill((distance < 0) | (distance >= window), -torch.inf)
        mixed = scores.softmax(-1) @ v
        return self.part("out")(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, c, names, fused):
        super().__init__()
        self.c, self.names, self.fused = c, names, fused
        if c.mlp_gated and fused:
            self.add_module(
                names["gate_up"], nn.Linear(c.model_dim, 2 * c.mlp_dim, bias=c.mlp_bias)
            )
        else:
            for part in ("gate", "up") if c.mlp_gated else ("up",):
                self.add_module(names[part], nn.Linear(c.model_dim, c.mlp_dim, bias=c.mlp_bias))
        self.add_module(names["down"], nn.Linear(c.mlp_dim, c.model_dim, bias=c.mlp_bias))

    def forward(self, x):
        act, part = ACTIVATIONS[self.c.activation], lambda name: getattr(self, self.names[name])
        if not self.c.mlp_gated:
            return part("down")(act(part("up")(x)))
        if self.fused:
            gate, up = part("gate_up")(x).chunk(2, -1)
        else:
            gate, up = part("gate")(x), part("up")(x)
        return part("down")(act(gate) * up)


class Block(nn.Module):
    def __init__(self, c, names, layer, fused):
        super().__init__()
        self.c, self.names = c, names
        order = ["norm1", "norm2"] if c.residual != "parallel_one_norm" else ["norm1"]
        order += ["out_norm1", "out_norm2"] if "sandwich" in c.extra_norms else []
        for name in order:
            self.add_module(names[name], Norm(c, c.model_dim))
        self.add_module(names["attention"], Attention(c, names, layer, fused))
        self.add_module(names["mlp"], Mlp(c, names, fused))

    def part(self, name):
        return getattr(self, self.names[name])

    def branch(self, name, number, x):
        y = self.part(name)(x)
        return self.part(f"out_norm{number}")(y) if "sandwich" in self.c.extra_norms else y

    def forward(self, x):
        c = self.c
        if c.residual != "sequential":
            y = self.part("norm1")(x)
            z = y if c.residual == "parallel_one_norm" else self.part("norm2")(x)
            return x + self.part("attention")(y) + self.part("mlp")(z)
        for number, name in ((1, "attention"), (2, "mlp")):
            norm = self.part(f"norm{number}")
            if c.norm == "pre":
                x = x + self.branch(name, number, norm(x))
            elif c.norm == "post":
                x = norm(x + self.branch(name, number, x))
            elif c.norm == "output":
                x = x + norm(self.branch(name, number, x))
            else:
                x = norm(x)
                x = x + self.branch(name, number, x)
        return x


def sinusoids(c, time):
    angle = torch.arange(time)[:, None] * 10000.0 ** (
        -torch.arange(0, c.model_dim, 2) / c.model_dim
    )
    if c.sinusoidal_layout == "half":
        return torch.cat([angle.sin(), angle.cos()], -1)[:, : c.model_dim]
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, : c.model_dim]


class General(nn.Module):
    """The decoder of the config `c`; `names` are those of its parts, as in NAMES."""

    def __init__(self, c, names=None, fused=False):
        super().__init__()
        self.c, self.names = c, {**NAMES, **(names or {})}
        names = self.names
        self.max_seq_len = c.context_length
        self.add_module(names["token"], nn.Embedding(c.vocab_size, c.model_dim))
        if c.positions == "learned":
            self.add_module(names["positions"], nn.Embedding(c.context_length, c.model_dim))
        if "embedding" in c.extra_norms:
            self.add_module(names["embedding_norm"], Norm(c, c.model_dim))
        blocks = (Block(c, names, layer, fused) for layer in range(c.num_blocks))
        self.add_module(names["blocks"], nn.ModuleList(blocks))
        if c.final_norm:
            self.add_module(names["final_norm"], Norm(c, c.model_dim))
        if not c.tied:
            self.add_module(names["head"], nn.Linear(c.model_dim, c.vocab_size, bias=c.head_bias))

    def part(self, name):
        return getattr(self, self.names[name])

    def forward(self, idx):
        c, time = self.c, idx.shape[1]
        x = self.part("token")(idx) * c.embedding_scale
        if c.positions == "learned":
            x = x + self.part("positions")(torch.arange(time))
        if c.positions == "sinusoidal":
            x = x + sinusoids(c, time)
        if "embedding" in c.extra_norms:
            x = self.part("embedding_norm")(x)
        for block in self.part("blocks"):
            x = block(x)
        x = self.part("final_norm")(x) if c.final_norm else x
        logits = functional.linear(x, self.part("token").weight) if c.tied else self.part("head")(x)
        logits = logits * c.logit_scale
        return (
            logits
            if c.logit_softcap is None
            else c.logit_softcap * torch.tanh(logits / c.logit_softcap)
        )

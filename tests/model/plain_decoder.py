"""A decoder in plain torch, as its formulas say, without anything that makes it fast.

It knows the fields of ModelConfig and the parameters by their Flax paths, and shares no code with
the model.
"""

import math
from collections.abc import Mapping
from typing import Any

from jaxgpt.config import ModelConfig

Tensors = Mapping[str, Any]  # by Flax path, in float64


def logits(c: ModelConfig, p: Tensors, ids: Any) -> Any:
    """Logits (B, T, V) of the ids (B, T)."""
    x = c.embedding_scale * p["token_embedding/embedding"][ids]
    if c.positions in ("learned", "sinusoidal"):
        x = x + _positions(c, p, ids.shape[1])
    if "embedding" in c.extra_norms:
        x = _norm(c, p, "embedding_norm", ..., x)
    for layer in range(c.num_blocks):
        x = _block(c, p, layer, x)
    if c.final_norm is True:
        x = _norm(c, p, "final_norm", ..., x)
    out = x @ (p["token_embedding/embedding"].T if c.tied else p["head/kernel"])
    out = out + p["head/bias"] if c.head_bias else out
    return _capped(out * c.logit_scale, c.logit_softcap)


def _positions(c: ModelConfig, p: Tensors, length: int) -> Any:
    import torch

    if c.positions == "learned" or c.positions_stored:
        return p["pos_embedding/embedding"][c.positions_offset :][:length]
    rows = []
    for t in range(length):
        angles = [t * 10000 ** (-2 * i / c.model_dim) for i in range((c.model_dim + 1) // 2)]
        pairs = [(math.sin(angle), math.cos(angle)) for angle in angles]
        if c.sinusoidal_layout == "half":
            rows.append([sin for sin, _ in pairs] + [cos for _, cos in pairs])
        else:
            rows.append([wave for pair in pairs for wave in pair])
    return torch.tensor(rows, dtype=torch.float64)[:, : c.model_dim]


def _norm(c: ModelConfig, p: Tensors, path: str, layer: Any, x: Any) -> Any:
    """The norm at `path` of each vector along the last axis."""
    eps = 2.0**-52 if c.norm_eps == "dtype" else c.norm_eps
    if c.norm_kind == "rms":
        x = x / ((x**2).mean(-1, keepdim=True) + eps) ** 0.5
    elif c.norm_std == "biased":
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.var(-1, keepdim=True, correction=0) + eps) ** 0.5
    else:
        x = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + eps)
    if c.norm_weight:
        x = x * (c.norm_unit_offset + p[f"{path}/scale"][layer].flatten())
    return x + p[f"{path}/bias"][layer].flatten() if c.norm_bias else x


def _block(c: ModelConfig, p: Tensors, layer: int, x: Any) -> Any:
    def norm(name: str, x: Any) -> Any:
        return _norm(c, p, f"blocks/{name}", layer, x)

    def attention(x: Any) -> Any:
        y = _attention(c, p, layer, x)
        return norm("out_norm1", y) if "sandwich" in c.extra_norms else y

    def mlp(x: Any) -> Any:
        y = _mlp(c, p, layer, x)
        return norm("out_norm2", y) if "sandwich" in c.extra_norms else y

    if c.residual == "parallel":
        return x + attention(norm("norm1", x)) + mlp(norm("norm2", x))
    if c.residual == "parallel_one_norm":
        return x + attention(norm("norm1", x)) + mlp(norm("norm1", x))
    for name, part in (("norm1", attention), ("norm2", mlp)):
        x = {
            "pre": lambda x, n, part: x + part(norm(n, x)),
            "post": lambda x, n, part: norm(n, x + part(x)),
            "output": lambda x, n, part: x + norm(n, part(x)),
            "residual": lambda x, n, part: norm(n, x) + part(norm(n, x)),
        }[c.norm](x, name, part)
    return x


def _mlp(c: ModelConfig, p: Tensors, layer: int, x: Any) -> Any:
    import torch

    def linear(name: str, x: Any) -> Any:
        y = torch.tensordot(x, p[f"blocks/mlp/{name}/kernel"][layer], 1)
        return y + p[f"blocks/mlp/{name}/bias"][layer] if c.mlp_bias else y

    act = {
        "relu": lambda x: x.clamp(min=0),
        "relu2": lambda x: x.clamp(min=0) ** 2,
        "silu": lambda x: x / (1 + (-x).exp()),
        "gelu": lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
        "gelu_tanh": lambda x: x * (1 + ((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)).tanh()) / 2,
    }[c.activation]
    if not c.mlp_gated:
        return linear("down", act(linear("up", x)))
    gate, up = linear("gate_up", x).unbind(-2)
    return linear("down", act(gate) * up)


def _attention(c: ModelConfig, p: Tensors, layer: int, x: Any) -> Any:
    import torch

    time, group = x.shape[1], c.num_heads // c.num_kv_heads
    qkv = torch.einsum("btd,dmgh->btmgh", x, p["blocks/attn/qkv/kernel"][layer])
    qkv = qkv + p["blocks/attn/qkv/bias"][layer] if c.qkv_bias else qkv
    q, k, v = qkv[:, :, :, :group].flatten(2, 3), qkv[:, :, :, group], qkv[:, :, :, group + 1]
    q, k = _placed(c, p, "q_norm", layer, q), _placed(c, p, "k_norm", layer, k)
    named = {"head_dim": c.head_dim**-0.5, "model_dim": c.model_dim**-0.5, "none": 1.0}
    scale = named.get(c.attention_scale, c.attention_scale)  # type: ignore[call-overload]
    scale = scale / (layer + 1) if c.attention_scale_by_layer else scale
    distance = torch.arange(time)[:, None] - torch.arange(time)
    hidden = (distance < 0) | (distance >= (c.by_layer("window")[layer] or time))
    mixed = []
    for n in range(c.num_heads):  # query head n has the key head n // group
        scores = _capped(scale * q[:, :, n] @ k[:, :, n // group].mT, c.attention_softcap)
        if c.positions == "alibi":
            scores = scores - _slope(c.num_heads, n) * distance
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        mixed.append(weights @ v[:, :, n // group])
    if not c.attention_out:
        return torch.cat(mixed, -1)
    out = torch.tensordot(torch.stack(mixed, 2), p["blocks/attn/out/kernel"][layer], 2)
    return out + p["blocks/attn/out/bias"][layer] if c.attention_out_bias else out


def _placed(c: ModelConfig, p: Tensors, name: str, layer: int, x: Any) -> Any:
    """Queries or keys `x` (B, T, heads, H) after their norm and rotation."""
    import torch

    path = f"blocks/attn/{name}"
    if c.qk_norm == "before_rotary":
        x = _norm(c, p, path, layer, x)
    if c.qk_norm == "full_width":
        x = _norm(c, p, path, layer, x.flatten(2)).reshape(x.shape)
    if c.positions == "rotary":
        x = torch.stack([_rotated(c, layer, t, x[:, t]) for t in range(x.shape[1])], 1)
    return _norm(c, p, path, layer, x) if c.qk_norm == "after_rotary" else x


def _rotated(c: ModelConfig, layer: int, t: int, x: Any) -> Any:
    import torch

    theta, scaling = c.by_layer("rotary_theta")[layer], c.by_layer("rotary_scaling")[layer]
    if theta is None:
        return x
    r, parts = round(c.rotary_fraction * c.head_dim), list(x.unbind(-1))
    for i in range(r // 2):
        angle, size = _angle(scaling, r, theta, i)
        cos, sin = size * math.cos(t * angle), size * math.sin(t * angle)
        a, b = x[..., i], x[..., i + r // 2]
        parts[i], parts[i + r // 2] = a * cos - b * sin, a * sin + b * cos
    return torch.stack(parts, -1)


def _angle(scaling: Any, r: int, theta: float, i: int) -> tuple[float, float]:
    """The angle of pair `i` from one position to the next, and the factor of the pair."""
    w = theta ** (-2 * i / r)
    if not scaling:
        return w, 1.0
    factor, kind = scaling["factor"], scaling["rope_type"]
    if kind == "linear":
        return w / factor, 1.0
    trained = scaling["original_max_position_embeddings"]
    if kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        length = 2 * math.pi / w
        if length < trained / high:
            return w, 1.0
        if length > trained / low:
            return w / factor, 1.0
        s = (trained / length - low) / (high - low)
        return (1 - s) * w / factor + s * w, 1.0

    def c(n: float) -> float:
        return r * math.log(trained / (2 * math.pi * n)) / (2 * math.log(theta))

    lo = max(math.floor(c(scaling["beta_fast"])), 0)
    hi = min(math.ceil(c(scaling["beta_slow"])), r - 1)
    g = min(max((i - lo) / (hi - lo), 0), 1)
    return w * g / factor + w * (1 - g), 0.1 * math.log(factor) + 1


def _slope(heads: int, n: int) -> float:
    p = 1
    while p < heads:
        p *= 2
    s = [2 ** (-8 * i / p) for i in range(1, p + 1)]
    return (s if p == heads else [*s[1::2], *s[0::2]])[n]


def _capped(x: Any, c: float | None) -> Any:
    return x if c is None else c * (x / c).tanh()

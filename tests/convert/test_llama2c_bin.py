"""The .bin for llama2.c holds the model: its program's reading of the file, in numpy, computes the same."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.llama2c_bin import SIZES
from jaxgpt.model import GPT, params_of
from jaxgpt.storage import model_directory
from tests.helpers import random_model, require_close

FIELDS = {
    "vocab_size": 37, "context_length": 11, "model_dim": 24, "num_blocks": 2, "num_heads": 6,
    "num_kv_heads": 2, "mlp_dim": 20, "positions": "rotary", "rotary_layout": "interleaved",
    "norm_kind": "rms", "norm_bias": False, "mlp_gated": True, "activation": "silu", "qkv_bias": False,
    "attention_out_bias": False, "mlp_bias": False, "head_bias": False, "tied": True, "dropout": 0.0,
}  # fmt: skip
IDS = [3, 30, 7, 7, 1, 36, 0, 12, 5, 9, 2]


def saved(path: Path, **fields: Any) -> GPT:
    model = random_model("float32", **{**FIELDS, **fields})
    model_directory.save(path, model.config, params_of(model))
    return model


def logits(path: Path, ids: list[int]) -> np.ndarray:
    """Logits of the last of `ids`, as the C program computes them, token by token, in float64."""
    header = np.fromfile(path, "<i4", 7)
    d, f, layers, heads, kv, v, t = map(int, header)
    head, width = d // heads, kv * (d // heads)
    flat, at = np.fromfile(path, "<f4", offset=28).astype(np.float64), 0

    def take(*shape: int) -> np.ndarray:
        nonlocal at
        at += math.prod(shape)
        return flat[at - math.prod(shape) : at].reshape(shape)

    embeddings, norm1 = take(abs(v), d), take(layers, d)
    wq, wk, wv, wo = (
        take(layers, rows, columns) for rows, columns in [(d, d), (width, d), (width, d), (d, d)]
    )
    norm2, w1, w2, w3 = take(layers, d), take(layers, f, d), take(layers, d, f), take(layers, f, d)
    last, cos, sin = take(d), take(t, head // 2), take(t, head // 2)
    out = embeddings if v > 0 else take(-v, d)
    assert at == len(flat)

    def normed(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return weight * x / np.sqrt((x * x).mean() + 1e-5)

    def turned(x: np.ndarray, position: int) -> np.ndarray:
        x = x.copy()
        for i in range(0, len(x), 2):
            angle = position * 10000.0 ** -((i % head) / head)
            a, b = x[i], x[i + 1]
            x[i] = a * math.cos(angle) - b * math.sin(angle)
            x[i + 1] = a * math.sin(angle) + b * math.cos(angle)
        return x

    angles = np.arange(t)[:, None] * 10000.0 ** -(np.arange(0, head, 2) / head)
    require_close(cos, np.cos(angles), 1e-6)
    require_close(sin, np.sin(angles), 1e-6)
    keys: list[list[np.ndarray]] = [[] for _ in range(layers)]
    values: list[list[np.ndarray]] = [[] for _ in range(layers)]
    for position, token in enumerate(ids):
        x = embeddings[token]
        for layer in range(layers):
            h = normed(x, norm1[layer])
            q = turned(wq[layer] @ h, position).reshape(heads, head)
            keys[layer].append(turned(wk[layer] @ h, position).reshape(kv, head))
            values[layer].append((wv[layer] @ h).reshape(kv, head))
            mixed = []
            for i in range(heads):
                of_head = i // (heads // kv)
                scores = np.array([q[i] @ key[of_head] for key in keys[layer]]) / math.sqrt(head)
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                mixed.append(
                    sum(w * value[of_head] for w, value in zip(weights, values[layer], strict=True))
                )
            x = x + wo[layer] @ np.concatenate(mixed)
            h = normed(x, norm2[layer])
            gate = w1[layer] @ h
            x = x + w2[layer] @ (gate / (1 + np.exp(-gate)) * (w3[layer] @ h))
    return out @ normed(x, last)


@pytest.mark.parametrize("tied", [True, False])
def test_the_program_computes_the_model(
    tied: bool, tmp_path: Path, command: Callable[..., Any]
) -> None:
    model = saved(tmp_path / "m", tied=tied)
    outcome = command("jaxgpt-convert", "to-torch", tmp_path / "m", tmp_path / "model.bin")
    assert outcome.code == 0, outcome
    header = dict(zip(SIZES, np.fromfile(tmp_path / "model.bin", "<i4", 7), strict=True))
    assert header["vocab_size"] == (37 if tied else -37)
    assert header["context_length"] == 11
    ours = np.asarray(model([IDS]))[0, -1]
    require_close(logits(tmp_path / "model.bin", IDS), ours, 1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rotary_theta": 5e5}, "its rotary_theta is 500000.0, and the program computes 10000.0"),
        ({"norm_eps": 1e-6}, "its norm_eps is 1e-06, and the program computes 1e-05"),
        ({"head_dim": 8}, "its head_dim is 8, and the program computes 4"),
        ({"qkv_bias": True}, "blocks/attn/qkv/bias has no place"),
        ({"window": 4}, "its window is 4, and the program computes None"),
    ],
)
def test_a_model_that_the_program_cannot_compute_is_refused(
    fields: dict[str, Any], message: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    saved(tmp_path / "m", **fields)
    assert message in refused("jaxgpt-convert", "to-torch", tmp_path / "m", tmp_path / "model.bin")
    assert not (tmp_path / "model.bin").exists()


def test_another_dialect_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    saved(tmp_path / "m")
    asked = ["to-torch", tmp_path / "m", tmp_path / "model.bin", "--dialect", "llama"]
    assert "for llama2.c's program, not for the dialect llama" in refused("jaxgpt-convert", *asked)

"""Idioms of single classes in their config.json: which blocks are local, which heads share keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError

from .idioms import scale_of
from .layers import by_layer, collapsed, first_of


@dataclass(frozen=True)
class LocalAttention:
    """Which blocks are local, with a window of `window_size`."""

    words: tuple[str, ...] = ("attention_layers", "attention_types", "window_size")

    def read(self, config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        layers = by_layer(None, fields)
        kinds = config.get("attention_layers") or self._expanded(config, len(layers))
        if len(kinds) != len(layers):
            raise UserError(
                f"its attention_layers are {len(kinds)}, but there are {len(layers)} blocks"
            )
        size = config.get("window_size", 256)
        return {"window": collapsed([size if kind == "local" else None for kind in kinds])}

    def _expanded(self, config: Mapping[str, Any], count: int) -> list[str]:
        """The kind of each block by `attention_types`, or by the class's alternation."""
        types = config.get("attention_types")
        if not types:
            return [("global", "local")[layer % 2] for layer in range(count)]
        return [kind for kinds, times in types for _ in range(times) for kind in kinds]

    def write(self, config: ModelConfig) -> dict[str, Any]:
        windows = config.by_layer("window")
        kinds = ["global" if window is None else "local" for window in windows]
        return {
            "attention_types": [[kinds, 1]],
            "attention_layers": kinds,
            "window_size": first_of(windows) or 256,
        }


@dataclass(frozen=True)
class MultiQuery:
    """The word `multi_query`: whether all heads share one key and value, or each has its own."""

    words: tuple[str, ...] = ("multi_query",)

    def read(self, config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        if config.get("multi_query", True):
            return {"num_kv_heads": 1}
        return {"num_kv_heads": fields["num_heads"]} if "num_heads" in fields else {}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {"multi_query": config.num_kv_heads == 1}


@dataclass(frozen=True)
class MptAttention:
    """The section `attn_config`; the class uses only the scale and the clipping in it."""

    words: tuple[str, ...] = ("attn_config",)

    def read(self, config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        section = config.get("attn_config") or {}
        if section.get("clip_qkv"):
            raise UserError(
                f"clip_qkv = {section['clip_qkv']}: the model cuts queries, keys and values to a "
                "range, which has no counterpart here"
            )
        return {"attention_scale": section.get("softmax_scale") or "head_dim"}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        usual = config.attention_scale == "head_dim"
        return {
            "attn_config": {"alibi": True, "softmax_scale": None if usual else scale_of(config)}
        }


@dataclass(frozen=True)
class FalconArchitecture:
    """The key heads, and the order of attention and MLP with their norms."""

    words: tuple[str, ...] = (
        "new_decoder_architecture", "multi_query", "num_kv_heads", "parallel_attn",
        "num_ln_in_parallel_attn",
    )  # fmt: skip

    def read(self, config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        heads = fields.get("num_heads")
        stated = {"num_kv_heads": config.get("num_kv_heads") or heads}
        if config.get("new_decoder_architecture"):
            two = config.get("num_ln_in_parallel_attn") in (None, 2)
            return {**stated, "residual": "parallel" if two else "parallel_one_norm"}
        if config.get("multi_query", True):
            stated = {"num_kv_heads": 1}
        parallel = config.get("parallel_attn", True)
        return {**stated, "residual": "parallel_one_norm" if parallel else "sequential"}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        grouped = config.num_kv_heads not in (1, config.num_heads)
        parallel = config.residual != "sequential"
        new = config.residual == "parallel" or (parallel and grouped)
        return {
            "new_decoder_architecture": new,
            "multi_query": config.num_kv_heads == 1,
            "num_kv_heads": config.num_kv_heads if new else config.num_heads,
            "parallel_attn": parallel,
            "num_ln_in_parallel_attn": (2 if config.residual == "parallel" else 1) if new else None,
        }

"""Idioms: words of a config.json that have a meaning only together, or one in an unusual form.

Each idiom reads its words as fields of ModelConfig, and writes them. Those of a single class are in
`class_idioms` or in the file of its dialect, those of rotary positions in `rope_idioms`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError

from .layers import by_layer, collapsed, first_of

SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Biases:
    """One word for the biases of several layers, such as `attention_bias`."""

    word: str
    fields: str
    usual: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        return (self.word,)

    def read(self, config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        value = config.get(self.word)
        if value is not None and not isinstance(value, bool):
            raise UserError(f"{self.word} = {value!r} is neither true nor false")
        return dict.fromkeys(self.fields.split(), self.usual if value is None else value)

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {self.word: any(getattr(config, field) for field in self.fields.split())}


@dataclass(frozen=True)
class QueryScalar:
    """A width whose root divides the scores: Gemma's `query_pre_attn_scalar`."""

    usual: int = 256
    words: tuple[str, ...] = ("query_pre_attn_scalar",)

    def read(self, config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        width = config.get("query_pre_attn_scalar") or self.usual
        if not isinstance(width, (int, float)) or width <= 0:
            raise UserError(f"query_pre_attn_scalar = {width!r} is not a width")
        return {"attention_scale": width**-0.5}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {"query_pre_attn_scalar": round(scale_of(config) ** -2)}


@dataclass(frozen=True)
class RootOfWidth:
    """Embeddings that the class multiplies by the root of model_dim; no word states it."""

    words: tuple[str, ...] = ()

    def read(self, config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        width = fields.get("model_dim")
        return {"embedding_scale": width**0.5} if width else {}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Window:
    """`sliding_window`, and the blocks that have it: those that `layer_types` names.

    Without `layer_types`, the class's `rule` decides: all of them, all but every `interval`-th,
    those from `max_window_layers` on, or those that rotate nothing. "all" is for classes that do
    not know the word `layer_types`, "listed" for those that do.
    """

    usual: int | None = None
    rule: Literal["all", "listed", "interval", "after", "unrotated"] = "all"
    interval: int = 0
    switch: bool = False  # whether the window counts only if use_sliding_window is true

    @property
    def words(self) -> tuple[str, ...]:
        switch = ("use_sliding_window", "max_window_layers") if self.switch else ()
        return ("sliding_window", *switch, *(("layer_types",) if self.rule != "all" else ()))

    def read(self, config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        size = config.get("sliding_window", self.usual)
        if self.switch and not config.get("use_sliding_window"):
            size = None
        if size is None:
            return {"window": None}
        if not isinstance(size, int) or size <= 0:
            raise UserError(f"sliding_window = {size!r} is not a number of tokens")
        kinds = config.get("layer_types") if self.rule != "all" else None
        layers = by_layer(None, fields)
        if kinds and (len(kinds) != len(layers) or not {*kinds} <= {SLIDING, FULL}):
            raise UserError(
                f"layer_types has {len(kinds)} entries ({', '.join(sorted({*map(str, kinds)}))}), "
                f"but there are {len(layers)} blocks, of {SLIDING} or {FULL}"
            )
        slides = (
            [kind == SLIDING for kind in kinds]
            if kinds
            else [self._slides(layer, config, fields) for layer in range(len(layers))]
        )
        return {"window": collapsed([size if each else None for each in slides])}

    def _slides(self, layer: int, config: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
        match self.rule:
            case "interval":
                every = config.get("sliding_window_pattern")
                return bool((layer + 1) % (every if isinstance(every, int) else self.interval))
            case "after":
                return layer >= config.get("max_window_layers", 28)
            case "unrotated":
                return by_layer(fields["rotary_theta"], fields)[layer] is None
        return True

    def write(self, config: ModelConfig) -> dict[str, Any]:
        windows = config.by_layer("window")
        size = first_of(windows)
        words: dict[str, Any] = {"sliding_window": size}
        if self.rule != "all":
            words["layer_types"] = [FULL if window is None else SLIDING for window in windows]
        if self.switch:
            words["use_sliding_window"] = size is not None
            full = [layer for layer, window in enumerate(windows) if window is None]
            words["max_window_layers"] = max(full, default=-1) + 1
        return words


def scale_of(config: ModelConfig) -> float:
    """The number that multiplies the scores of attention."""
    scale = config.attention_scale
    widths = {"head_dim": config.head_dim, "model_dim": config.model_dim, "none": 1}
    return widths[scale] ** -0.5 if isinstance(scale, str) else scale

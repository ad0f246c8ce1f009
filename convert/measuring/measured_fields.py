"""Fields of ModelConfig from measurements: numbers become named values, equal layers one value."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from jaxgpt.config import ModelConfig
from jaxgpt.model.position_spec import alibi_slopes
from jaxgpt.rotary_scaling import frequencies

from .attention import Rotation
from .norm import round_number

NEAR = 1e-7  # relative tolerance for comparing measured numbers with those of fields
ANGLE = 1e-8  # radians
# Stretched wavelengths of well-known models.
SCALINGS: tuple[dict[str, Any], ...] = tuple(
    {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    for factor in (8.0, 32.0)
)


class Inexpressible(Exception):
    """Something was measured that no field of ModelConfig can express."""


def near(one: float, other: float) -> bool:
    return abs(one - other) <= NEAR * abs(other)


def factor(value: float, width: int) -> float:
    """1, the root of `width` or its inverse, if `value` is near one of these; else a round number
    near `value`."""
    for exact in (1.0, width**0.5, width**-0.5):
        if near(value, exact):
            return exact
    return round_number(value)


def scale_fields(scales: Sequence[float], config: ModelConfig) -> dict[str, Any]:
    """attention_scale and attention_scale_by_layer, from the factor of the scores in each layer."""
    by_layer = len(scales) > 1 and all(
        near(scale * (layer + 1), scales[0]) for layer, scale in enumerate(scales)
    )
    if not by_layer and not all(near(scale, scales[0]) for scale in scales):
        raise Inexpressible("its layers scale their scores differently")
    widths = {"head_dim": config.head_dim, "model_dim": config.model_dim, "none": 1}
    named = (name for name, width in widths.items() if near(scales[0], width**-0.5))
    scale = next(named, None) or round_number(scales[0])
    return {"attention_scale": scale, "attention_scale_by_layer": by_layer}


def one_value(values: Sequence[Any]) -> Any:
    """The value that all layers share, or a list with one for each layer."""
    return values[0] if all(value == values[0] for value in values) else list(values)


def position_fields(
    rotations: Sequence[Rotation], config: ModelConfig, table: str
) -> dict[str, Any]:
    """The fields of positions; `table` is the kind of table that the embeddings have, or "none"."""
    slopes = torch.stack([rotation.slopes.flatten() for rotation in rotations])
    turning = [bool((rotation.angles.abs() > ANGLE).any()) for rotation in rotations]
    if float(slopes.abs().max()) > 1e-6:
        usual = torch.tensor(alibi_slopes(config.num_heads))
        if float((slopes - usual).abs().max()) > 1e-6 or any(turning) or table != "none":
            raise Inexpressible("its scores fall with the distance as no field describes")
        return {"positions": "alibi"}
    if not any(turning):
        return {"positions": table}
    if table != "none":
        raise Inexpressible("it has rotary positions besides a table of positions")
    return {"positions": "rotary", **_rotary(rotations, turning, config)}


def _rotary(
    rotations: Sequence[Rotation], turning: Sequence[bool], config: ModelConfig
) -> dict[str, Any]:
    layout = next(r.layout for r, turns in zip(rotations, turning, strict=True) if turns)
    width = max(map(_turned, rotations))
    bases = [
        _base(rotation.angles[: width // 2].abs().numpy(), width, config) if turns else None
        for rotation, turns in zip(rotations, turning, strict=True)
    ]
    first = next(base for base in bases if base)
    return {
        "rotary_layout": layout,
        "rotary_fraction": width / config.head_dim,
        "rotary_theta": one_value([base and base[0] for base in bases]),
        "rotary_scaling": one_value([base[1] if base else first[1] for base in bases]),
    }


def _turned(rotation: Rotation) -> int:
    """The width of the part of a head that actually rotates."""
    if rotation.layout == "half":
        return rotation.width
    turning = (rotation.angles.abs() > ANGLE).nonzero()
    return 2 * (int(turning.max()) + 1) if len(turning) else 0


def _base(angles: np.ndarray, width: int, config: ModelConfig) -> tuple[float, Any]:
    """rotary_theta and rotary_scaling of a layer with these angles."""

    def fits(theta: float, scaling: Any) -> bool:
        usual = np.asarray(frequencies(width, theta, scaling))
        return bool(np.abs(usual - angles).max() < ANGLE * max(1.0, float(angles.max())))

    stated = config.by_layer("rotary_scaling")[0]
    if len(angles) == 1:
        theta, factor = 10000.0, 1 / float(angles[0])
        return theta, None if near(factor, 1) else _linear(factor)
    theta = round_number(float(angles[0] / angles[1]) ** (width / 2))
    if fits(theta, None):
        return theta, None
    if fits(theta, linear := _linear(1 / float(angles[0]))):
        return theta, linear
    for scaling in filter(None, (stated, *SCALINGS)):
        for candidate in (theta, *config.by_layer("rotary_theta"), 10000.0, 500000.0, 1000000.0):
            if candidate and fits(candidate, scaling):
                return candidate, scaling
    shown = ", ".join(f"{angle:.6g}" for angle in angles[:4])
    raise Inexpressible(f"its pairs rotate by {shown} ... radians from one position to the next")


def _linear(factor: float) -> dict[str, Any]:
    return {"rope_type": "linear", "factor": round_number(factor)}


def is_backward(rotations: Sequence[Rotation]) -> bool:
    """Whether pairs rotate by minus the angle."""
    total = math.fsum(float(rotation.angles.sum()) for rotation in rotations)
    return total < -ANGLE

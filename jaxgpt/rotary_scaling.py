"""Rules that stretch rotary wavelengths, so that a model can use a longer context than in training.

Each rule has the name of its `rope_type` in the config.json of Hugging Face.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from jaxgpt.errors import UserError, in_a_row, require

Numbers = Mapping[str, Any]
# (frequencies, theta, numbers) -> frequencies
Rule = Callable[[list[float], float, Numbers], list[float]]


def linear(frequencies: list[float], theta: float, numbers: Numbers) -> list[float]:
    """Divide every frequency by `factor`."""
    return [each / numbers["factor"] for each in frequencies]


def llama3(frequencies: list[float], theta: float, numbers: Numbers) -> list[float]:
    """Divide the low frequencies by `factor`, keep the high ones, and blend between them."""
    low, high = numbers["low_freq_factor"], numbers["high_freq_factor"]
    context = numbers["original_max_position_embeddings"]

    def scaled(frequency: float) -> float:
        turns = context * frequency / (2 * math.pi)
        part = _between_0_and_1((turns - low) / (high - low))
        return frequency * (part + (1 - part) / numbers["factor"])

    return list(map(scaled, frequencies))


def yarn(frequencies: list[float], theta: float, numbers: Numbers) -> list[float]:
    """Divide the low frequencies by `factor`, keep the high ones; the blend is linear in index."""
    width, context = 2 * len(frequencies), numbers["original_max_position_embeddings"]

    def index(turns: float) -> float:
        """The index of the frequency that makes `turns` turns in the trained context."""
        return width * math.log(context / (2 * math.pi * turns)) / (2 * math.log(theta))

    low, high = index(numbers.get("beta_fast") or 32), index(numbers.get("beta_slow") or 1)
    if numbers.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    span = high - low or 0.001

    def scaled(i: int, frequency: float) -> float:
        part = _between_0_and_1((i - low) / span)
        return frequency * (part / numbers["factor"] + 1 - part)

    return [scaled(i, frequency) for i, frequency in enumerate(frequencies)]


def _between_0_and_1(value: float) -> float:
    return min(max(value, 0.0), 1.0)


RULES: dict[str, tuple[Rule, tuple[str, ...]]] = {  # each with the numbers that it needs
    "linear": (linear, ("factor",)),
    "llama3": (
        llama3,
        ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    ),
    "yarn": (yarn, ("factor", "original_max_position_embeddings")),
}
OPTIONAL = {
    "yarn": ("beta_fast", "beta_slow", "attention_factor", "truncate", "mscale", "mscale_all_dim")
}


def require_scaling(scaling: Mapping[str, Any]) -> None:
    """Require that `scaling` names a known rule and has its numbers."""
    kind = scaling.get("rope_type")
    if kind not in RULES:
        raise UserError(f"rotary_scaling has rope_type {kind!r}; known are {', '.join(RULES)}.")
    needed = RULES[kind][1]
    lacking = [name for name in needed if name not in scaling]
    require(not lacking, f"rotary_scaling of rope_type {kind} lacks {in_a_row(lacking, ', ')}.")
    unknown = sorted({*scaling} - {"rope_type", *needed, *OPTIONAL.get(kind, ())})
    require(
        not unknown,
        f"rotary_scaling of rope_type {kind} has {in_a_row(unknown, ', ')}, which is unknown.",
    )
    wrong = {
        name: value
        for name, value in scaling.items()
        if name != "rope_type"
        and value is not None
        and not (isinstance(value, bool) and name == "truncate")
        and not (isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0)
    }
    require(not wrong, f"rotary_scaling takes positive numbers, but has {wrong}.")


def frequencies(width: int, theta: float, scaling: Numbers | None) -> list[float]:
    """The angle by which each pair of the `width` elements rotates from one position to the
    next."""
    plain = [theta ** (-i / width) for i in range(0, width, 2)]
    return RULES[scaling["rope_type"]][0](plain, theta, scaling) if scaling else plain


def amplitude(scaling: Mapping[str, Any] | None) -> float:
    """The factor that multiplies rotated queries and keys."""
    if not scaling or scaling["rope_type"] != "yarn":
        return 1.0
    if scaling.get("attention_factor") is not None:
        return scaling["attention_factor"]
    one, all_dims = scaling.get("mscale"), scaling.get("mscale_all_dim")
    if one and all_dims:
        return _growth(scaling["factor"], one) / _growth(scaling["factor"], all_dims)
    return _growth(scaling["factor"], 1.0)


def _growth(factor: float, times: float) -> float:
    return 0.1 * times * math.log(factor) + 1 if factor > 1 else 1.0

"""Rotary positions in the config.json of Hugging Face's classes, as each release writes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError, in_a_row
from jaxgpt.rotary_scaling import RULES

from .layers import by_layer, collapsed, first_of

FRACTION = "partial_rotary_factor"
NOT_NUMBERS = ("rope_theta", FRACTION, "rope_type", "type")
TRAINED = "original_max_position_embeddings"
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Rope:
    """Base, scaling and rotated fraction; each has the class's value where nothing states it.

    Releases since 5 have `rope_parameters`, earlier ones `rope_theta` and `rope_scaling`. Both are
    written, because other programs read the older words.
    """

    theta: float = 10000.0
    fraction: float = 1.0
    theta_word: str = "rope_theta"
    fraction_word: str = FRACTION

    @property
    def words(self) -> tuple[str, ...]:
        return ("rope_parameters", "rope_scaling", self.theta_word, self.fraction_word)

    def read(self, config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        stretched, parameters = _dict(config, "rope_scaling"), _dict(config, "rope_parameters")
        for key in stretched.keys() & parameters.keys():
            if stretched[key] != parameters[key]:
                raise UserError(
                    f"rope_scaling has {key} = {stretched[key]!r}, but rope_parameters has "
                    f"{parameters[key]!r}"
                )
        chosen = {**parameters, **stretched}
        for word, key in ((self.theta_word, "rope_theta"), (self.fraction_word, FRACTION)):
            _require_one_value(config, word, chosen, key)
        usual = _number(config, FRACTION, self.fraction)
        fraction = _number(chosen, FRACTION, _number(config, self.fraction_word, usual))
        return {
            "rotary_theta": _theta(chosen, _number(config, self.theta_word, self.theta)),
            "rotary_scaling": _scaling(chosen, config, fields),
            "rotary_fraction": _exact(fraction, fields),
        }

    def write(self, config: ModelConfig) -> dict[str, Any]:
        theta = first_of(config.by_layer("rotary_theta"))
        scaling = first_of(config.by_layer("rotary_scaling"))
        words = {
            "rope_parameters": _parameters(theta, scaling),
            self.theta_word: theta,
            "rope_scaling": dict(scaling) if scaling else None,
        }
        if (config.rotary_fraction, self.fraction) != (1.0, 1.0):
            words[self.fraction_word] = config.rotary_fraction
            words["rope_parameters"]["partial_rotary_factor"] = config.rotary_fraction
        return words


@dataclass(frozen=True)
class RopeByWindow:
    """Rotary positions of a class whose blocks with a window have a base of their own.

    Only blocks without a window are scaled. The idiom of the windows is read first.
    """

    theta: float
    local: float
    local_word: str = "rope_local_base_freq"

    @property
    def words(self) -> tuple[str, ...]:
        return ("rope_parameters", "rope_scaling", "rope_theta", self.local_word)

    def read(self, config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        parameters = _dict(config, "rope_parameters")
        full = {**_dict(parameters, FULL), **_dict(config, "rope_scaling")}
        sliding = _dict(parameters, SLIDING)
        of_full = (
            _theta(full, _number(config, "rope_theta", self.theta)),
            _scaling(full, config, fields),
        )
        of_sliding = (
            _theta(sliding, _number(config, self.local_word, self.local)),
            _scaling(sliding, config, fields),
        )
        windows = by_layer(fields.get("window"), fields)
        chosen = [of_full if window is None else of_sliding for window in windows]
        return {
            "rotary_theta": collapsed([theta for theta, _ in chosen]),
            "rotary_scaling": collapsed([scaling for _, scaling in chosen]),
        }

    def write(self, config: ModelConfig) -> dict[str, Any]:
        windows = config.by_layer("window")
        thetas, scalings = config.by_layer("rotary_theta"), config.by_layer("rotary_scaling")

        def of(sliding: bool, usual: float) -> tuple[float, Any]:
            layers = zip(windows, thetas, scalings, strict=True)
            mine = [(t, s) for window, t, s in layers if (window is not None) == sliding]
            return mine[0] if mine else (usual, None)

        (full, scaling), (local, own) = of(False, self.theta), of(True, self.local)
        return {
            "rope_parameters": {FULL: _parameters(full, scaling), SLIDING: _parameters(local, own)},
            "rope_scaling": dict(scaling) if scaling else None,
            "rope_theta": full,
            self.local_word: local,
        }


@dataclass(frozen=True)
class NoRope:
    """Blocks that rotate nothing: those with a 0 in `no_rope_layers`, or every `interval`-th."""

    interval: int
    words: tuple[str, ...] = ("no_rope_layers", "no_rope_layer_interval")

    def read(self, config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        every = config.get("no_rope_layer_interval") or self.interval
        rotates = config.get("no_rope_layers")
        thetas = by_layer(fields["rotary_theta"], fields)
        if not rotates:
            rotates = [(layer + 1) % every for layer in range(len(thetas))]
        if len(rotates) != len(thetas):
            raise UserError(
                f"no_rope_layers has {len(rotates)} entries, but there are {len(thetas)} blocks"
            )
        pairs = zip(thetas, rotates, strict=True)
        return {"rotary_theta": collapsed([theta if turns else None for theta, turns in pairs])}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        thetas = config.by_layer("rotary_theta")
        return {"no_rope_layers": [int(theta is not None) for theta in thetas]}


@dataclass(frozen=True)
class OnlyWindowsRotate:
    """A class without rotation in blocks that have no window; no word of its config states it."""

    all_without_window: bool = False  # whether all blocks rotate in a model without any window
    words: tuple[str, ...] = ()

    def read(self, config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        windows = by_layer(fields.get("window"), fields)
        if self.all_without_window and not any(windows):
            return {}
        thetas = by_layer(fields["rotary_theta"], fields)
        pairs = zip(windows, thetas, strict=True)
        return {"rotary_theta": collapsed([theta if window else None for window, theta in pairs])}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class RotaryDim:
    """The number of elements of each head that rotate, as GPT-J has it; null is all of them."""

    usual: int = 64
    words: tuple[str, ...] = ("rotary_dim",)

    def read(self, config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        turned, width = config.get("rotary_dim", self.usual), _head_dim(fields)
        if turned is None or width is None:
            return {"rotary_fraction": 1.0}
        return {"rotary_fraction": turned / width}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {"rotary_dim": config.rotary_dim}


def _dict(config: Mapping[str, Any], word: str) -> Mapping[str, Any]:
    value = config.get(word) or {}
    if not isinstance(value, dict):
        raise UserError(f"{word} = {value!r} is not an object with a rope_type")
    return value


def _number(config: Mapping[str, Any], word: str, usual: float) -> float:
    value = config.get(word)
    if value is None:
        return usual
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{word} = {value!r} is not a number")
    return float(value)


def _theta(parameters: Mapping[str, Any], usual: float) -> float:
    return _number(parameters, "rope_theta", usual)


def _require_one_value(
    config: Mapping[str, Any], word: str, parameters: Mapping[str, Any], key: str
) -> None:
    outer, inner = config.get(word), parameters.get(key)
    if outer is not None and inner is not None and outer != inner:
        raise UserError(f"{word} is {outer!r}, but {key} in the rotary parameters is {inner!r}")


def _scaling(
    parameters: Mapping[str, Any], config: Mapping[str, Any], fields: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The scaling in `parameters` as ModelConfig has it; None if there is none."""
    kind = parameters.get("rope_type", parameters.get("type")) or "default"
    numbers = {
        word: value
        for word, value in parameters.items()
        if word not in NOT_NUMBERS and value is not None
    }
    if kind == "default" and not numbers.keys() - {TRAINED}:
        return None
    if kind not in RULES:
        known = in_a_row([*RULES], ", ")
        raise UserError(
            f"rope_type is {kind!r}, a scaling of rotary positions that has no counterpart here "
            f"(known are {known})"
        )
    if TRAINED in RULES[kind][1]:
        context = config.get(TRAINED) or numbers.get(TRAINED) or fields.get("context_length")
        numbers = {**numbers, TRAINED: context}
    return {"rope_type": kind, **numbers}


def _parameters(theta: float | None, scaling: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"rope_theta": theta, "rope_type": "default", **(scaling or {})}


def _head_dim(fields: Mapping[str, Any]) -> int | None:
    """The width of a head as far as the config shows it."""
    if not fields.get("head_dim") and "model_dim" in fields and "num_heads" in fields:
        return fields["model_dim"] // fields["num_heads"]
    return fields.get("head_dim")


def _exact(fraction: float, fields: Mapping[str, Any]) -> float:
    """The fraction of a head that is rotated once the class has rounded the rotated width down."""
    width = _head_dim(fields)
    if width is None or int(width * fraction) == width * fraction:
        return fraction
    return int(width * fraction) / width

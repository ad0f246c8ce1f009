"""The position encodings as typed cases, made from the flat ModelConfig."""

from dataclasses import dataclass
from typing import Literal

from jaxgpt.model_config import ModelConfig
from jaxgpt.rotary_scaling import amplitude, frequencies


@dataclass(frozen=True)
class Learned:
    """A trained table of position vectors; position 0 is its row `offset`."""

    rows: int
    offset: int


@dataclass(frozen=True)
class Sinusoids:
    """Sines and cosines, computed, or `stored` among the parameters and never trained."""

    rows: int
    offset: int
    stored: bool
    layout: Literal["interleaved", "half"]


@dataclass(frozen=True)
class Rotary:
    """Queries and keys rotated by angles that grow with the position.

    The first `width` elements of each head rotate: element i with element i + width / 2, by
    `frequencies[layer][i]` radians from one position to the next. A layer of zeros rotates nothing.
    """

    width: int
    frequencies: tuple[tuple[float, ...], ...]
    amplitudes: tuple[float, ...]  # the factor of the rotated elements in each layer


@dataclass(frozen=True)
class Alibi:
    """Scores lowered in proportion to the distance of the key, with a slope for each head."""

    slopes: tuple[float, ...]


@dataclass(frozen=True)
class Unplaced:
    """No position encoding; the model knows the order only through the causal mask."""


Positions = Learned | Sinusoids | Rotary | Alibi | Unplaced


def positions_of(c: ModelConfig) -> Positions:
    """The encoding of positions that the flat fields of `c` describe."""
    rows = c.context_length + c.positions_offset
    match c.positions:
        case "learned":
            return Learned(rows, c.positions_offset)
        case "sinusoidal":
            return Sinusoids(rows, c.positions_offset, c.positions_stored, c.sinusoidal_layout)
        case "rotary":
            return _rotary(c)
        case "alibi":
            return Alibi(alibi_slopes(c.num_heads))
    return Unplaced()


def _rotary(c: ModelConfig) -> Rotary:
    width = c.rotary_dim
    layers = list(zip(c.by_layer("rotary_theta"), c.by_layer("rotary_scaling"), strict=True))
    none = [0.0] * (width // 2)
    by_layer = [
        none if theta is None else frequencies(width, theta, scaling) for theta, scaling in layers
    ]
    return Rotary(
        width,
        tuple(map(tuple, by_layer)),
        tuple(1.0 if theta is None else amplitude(scaling) for theta, scaling in layers),
    )


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """The slope of each of `heads` heads: powers of 2 from 2^(-8 / heads) to 2^-8.

    If `heads` is not a power of 2, they are chosen from those of the next power: every second
    slope, from the second on, then the others.
    """
    power = 2 ** (heads - 1).bit_length()
    slopes = [2.0 ** (-8 * i / power) for i in range(1, power + 1)]
    if power != heads:
        slopes = slopes[1::2] + slopes[::2]
    return tuple(slopes[:heads])

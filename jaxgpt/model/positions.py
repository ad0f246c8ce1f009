"""Tables of positions."""

import numpy as np


def sinusoids(length: int, width: int) -> np.ndarray:
    """Sine and cosine interleaved: feature 2i turns with wave length 2 pi * 10000^(2i / width)."""
    exponents = -np.arange(0, width, 2) / width
    angles = np.arange(length)[:, None] * np.exp(exponents * np.log(10000.0))
    interleaved = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    return interleaved.reshape(length, -1)[:, :width]

"""Computed tables of position vectors."""

import numpy as np


def sinusoids(length: int, width: int) -> np.ndarray:
    """Interleaved sines and cosines; feature 2i has the period 2 pi * 10000^(2i / width)."""
    exponents = -np.arange(0, width, 2) / width
    angles = np.arange(length)[:, None] * np.exp(exponents * np.log(10000.0))
    interleaved = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    return interleaved.reshape(length, -1)[:, :width]

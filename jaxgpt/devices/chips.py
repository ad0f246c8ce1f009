"""Peak speed, memory and bandwidth of accelerators, from their makers' data sheets."""

import re
from typing import NamedTuple


class Chip(NamedTuple):
    """The limits of one device, as jax counts them: on TPU v2 and v3 it is half a chip."""

    peak: float  # operations per second: dense, in 16 bits
    memory: float  # bytes
    bandwidth: float  # bytes per second between chip and memory
    links: float  # bytes received per second from other chips, over all links


CHIPS = {
    "TPU v2": Chip(22.5e12, 8 * 2**30, 350e9, 124e9),
    "TPU v3": Chip(61.5e12, 16 * 2**30, 450e9, 164e9),
    "TPU v4": Chip(275e12, 32 * 2**30, 1228e9, 300e9),
    "TPU v5 lite": Chip(197e12, 16 * 2**30, 819e9, 200e9),
    "TPU v5": Chip(459e12, 95 * 2**30, 2765e9, 600e9),
    "TPU v6 lite": Chip(918e12, 32 * 2**30, 1640e9, 400e9),
    "V100": Chip(125e12, 16e9, 900e9, 150e9),
    "T4": Chip(65e12, 16e9, 320e9, 16e9),
    "A100": Chip(312e12, 80e9, 2039e9, 300e9),
    "L4": Chip(121e12, 24e9, 300e9, 32e9),
    "L40S": Chip(362e12, 48e9, 864e9, 32e9),
    "H100 PCIe": Chip(756e12, 80e9, 2000e9, 300e9),
    "H100": Chip(989e12, 80e9, 3350e9, 450e9),
    "H200": Chip(989e12, 141e9, 4800e9, 450e9),
    "B200": Chip(2250e12, 180e9, 8000e9, 900e9),
}


def chip(device_kind: str) -> Chip | None:
    """The entry of CHIPS with the longest name within `device_kind`; None for a CPU or no match."""
    matches = [name for name in CHIPS if re.search(rf"\b{name}\b", device_kind)]
    return CHIPS[max(matches, key=len)] if matches else None

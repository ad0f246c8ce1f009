"""How much arithmetic a token takes, and how much a device can do. Knows no array.

In training each weight of a matrix is multiplied and added once forward and twice backward, and attention scores and
sums over the whole context: 6 N + 12 L H k T operations a token, as PaLM's appendix B counts them.
"""

import re

from jaxgpt.config import ModelConfig

# Of what jax counts as one device (on TPU v2 and v3 that is half a chip): dense, in 16 bits, by its maker's data sheet.
PEAKS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "V100": 125e12,
    "T4": 65e12,
    "A100": 312e12,
    "L4": 121e12,
    "L40S": 362e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}


def per_token(config: ModelConfig) -> float:
    """Of one training step."""
    heads = config.num_heads * config.head_dim
    matrices = config.num_blocks * config.model_dim * ((3 + config.attention_out) * heads + 2 * config.mlp_dim)
    matrices += config.model_dim * config.vocab_size
    return 6 * matrices + 12 * config.num_blocks * heads * config.context_length


def peak(device_kind: str) -> float | None:
    """By the longest name that the device's own contains; None for a CPU, and for what is not listed."""
    known = [name for name in PEAKS if re.search(rf"\b{name}\b", device_kind)]
    return PEAKS[max(known, key=len)] if known else None
